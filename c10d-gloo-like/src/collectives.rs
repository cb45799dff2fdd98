//! The collectives of one rank. They run one at a time, on the thread that calls them.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use c10d_core::backend::{Caller, Request};
use c10d_core::{DType, Error, ErrorKind, OpKind, ReduceOp, Result};

use crate::exec::exchange::Progress;
use crate::exec::{Call, Executor, Op, Reduction, Spaces};
use crate::layout::Layout;
use crate::link::Link;
use crate::plan::Plan;

/// The data that collectives need. It is kept between calls, so that later calls allocate nothing.
pub(crate) struct Collectives {
    executor: Executor,
    layout: Layout,
    spaces: Spaces,
    plan: Plan,
    /// The last reduction, with its operation and element type. Calls often repeat.
    last: Option<(ReduceOp, DType, Reduction)>,
    /// The longest timeout of a collective so far.
    patience: Duration,
}

impl Collectives {
    pub(crate) fn new(executor: Executor, layout: Layout) -> Collectives {
        Collectives {
            executor,
            layout,
            spaces: Spaces::new(),
            plan: Plan::default(),
            last: None,
            patience: Duration::ZERO,
        }
    }

    /// Sends the items of a small call before the call runs, while earlier calls have not ended, as far as the links
    /// have room for the items. All earlier calls must have sent all of their items. Returns a rank: all peers with a
    /// lower rank have been sent their items.
    #[inline(never)]
    pub(crate) fn write_ahead(&mut self, request: &Request) -> Result<u32> {
        let reduction = reduction(&mut self.last, request, request.dtype(), self.layout.world());
        match self.layout.exchange(request, reduction) {
            // Over TCP, a note (see `exec::notes`) must precede the items of later calls. A call in which every rank
            // receives an item from every other needs no note.
            Some(exchange) if self.executor.all_share_memory() || exchange.is_between_all() => {
                // SAFETY: the spans belong to a job that this backend holds.
                unsafe { self.executor.write_ahead(&exchange, &request.fingerprint) }
            }
            _ => Ok(0),
        }
    }

    /// Runs the op to its end. The op ends soon after the deadline at the latest. `deadline` is called only if the op
    /// does not end at once. After the return, no span is used any more. `written` is the result of
    /// [`write_ahead`](Collectives::write_ahead), or 0.
    pub(crate) fn run(&mut self, request: &Request, written: u32, deadline: &dyn Fn() -> Instant) -> Result {
        self.patience = self.patience.max(request.timeout);
        let call = Call { fingerprint: request.fingerprint, op: request.op, root: request.params.root };
        let Collectives { executor, layout, spaces, plan, last, .. } = self;
        executor.beside_others(request.caller != Caller::Waits);
        let result = executor.call(&call, |executor| {
            let dtype = request.dtype();
            let reduction = reduction(last, request, dtype, layout.world());
            let written = match layout.exchange(request, reduction) {
                // SAFETY: the spans belong to a job that this backend holds.
                Some(exchange) => match unsafe { executor.exchange(&exchange, &request.fingerprint, written) }? {
                    Progress::Done => return Ok(()),
                    Progress::Written(before) => before,
                },
                None => 0,
            };
            plan.clear();
            spaces.clear();
            layout.fill(request, dtype, spaces, plan);
            let (elem, uneven) = (dtype.map_or(1, |d| d.size()), request.op.is_uneven());
            let op = Op { plan, fingerprint: request.fingerprint, uneven, elem, reduction, deadline };
            let result = executor.run(&op, spaces, written);
            spaces.clear();
            result
        });
        result.map_err(|mut error| {
            // A monitored barrier names only the first missing rank, unless the caller asked for all of them.
            if request.op == OpKind::MonitoredBarrier
                && !request.params.wait_all_ranks
                && *error.kind() == ErrorKind::Timeout
            {
                error.report_mut().guilty.truncate(1);
            }
            error
        })
    }

    /// Returns how long a rank that leaves waits, at most, until its peers have received the data that it sent. After
    /// this time, the deadlines of all collectives so far have passed.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Returns the links to the peers, by rank.
    pub(crate) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.executor.links()
    }

    /// Checks, when this rank leaves, whether the other ranks made the same calls. If they did not, the group has
    /// failed, and this returns the error.
    pub(crate) fn conclude(&mut self, deadline: Instant) -> Option<Error> {
        self.executor.conclude(deadline)
    }

    /// Returns the number of bytes of payload that have been sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.executor.sent()
    }
}

/// Returns the reduction of a request whose op reduces. `last` is the reduction that was returned last.
#[inline]
fn reduction(
    last: &mut Option<(ReduceOp, DType, Reduction)>,
    request: &Request,
    dtype: Option<DType>,
    world: u32,
) -> Option<Reduction> {
    let (op, dtype) = (request.params.reduce, dtype.filter(|_| request.op.reduces())?);
    match last {
        Some((of, on, reduction)) if (*of, *on) == (op, dtype) => Some(*reduction),
        _ => {
            let reduction = Reduction::new(op, dtype, world)?;
            // Factors are not kept, since 0.0 and -0.0 are equal but reduce differently.
            if !matches!(op, ReduceOp::PreMulSum(_)) {
                *last = Some((op, dtype, reduction));
            }
            Some(reduction)
        }
    }
}
