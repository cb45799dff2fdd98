//! Backends of some of a group's ranks.

use std::sync::Arc;
use std::time::Duration;

use super::plan::Step;
use crate::backend::{Backend, GroupInit, OtherBackends, Outer, Request, let_go, nested};
use crate::buffer::{Sink, Span};
use crate::catalog::OpKind;
use crate::error::Status;
use crate::options::Params;
use crate::store::PrefixStore;
use crate::types::ReduceOp;
use crate::{Error, Result};

/// A backend of some of the group's ranks, this one among them.
pub(super) struct TierBackend {
    pub(super) backend: Arc<dyn Backend>,
    /// Its ranks' numbers in the group.
    ranks: Vec<u32>,
}

/// The other backends of a tier.
struct TierOthers {
    group: Arc<dyn OtherBackends>,
    ranks: Vec<u32>,
}

impl OtherBackends for TierOthers {
    fn backend(&self, init: &GroupInit, name: &str) -> Result<Arc<dyn Backend>> {
        self.group.backend(init, name)
    }

    fn anew(&self) -> Arc<dyn OtherBackends> {
        Arc::new(TierOthers { group: self.group.anew(), ranks: self.ranks.clone() })
    }

    fn lost(&self) -> Vec<u32> {
        let lost = self.group.lost();
        (0..).zip(&self.ranks).filter(|(_, rank)| lost.contains(rank)).map(|(index, _)| index).collect()
    }
}

impl TierBackend {
    /// Connects these ranks, in this order, by the backend of this name. `None`: this rank is not among them, or alone.
    pub(super) fn connect(init: &GroupInit, name: &str, ranks: Vec<u32>) -> Result<Option<TierBackend>> {
        let Some(index) = ranks.iter().position(|rank| *rank == init.rank).filter(|_| ranks.len() > 1) else {
            return Ok(None);
        };
        let others = Arc::new(TierOthers { group: init.others.anew(), ranks: ranks.clone() });
        // What follows from the ranks tells tiers apart that have a first rank in common.
        let purpose = format!("tier/{}/{}", ranks[0], ranks[1]);
        let mut own = init.with(Arc::new(PrefixStore::new(&purpose, init.store.clone())), others);
        for (i, b) in purpose.bytes().enumerate() {
            own.session[i % 16] = own.session[i % 16].rotate_left(3) ^ b;
        }
        (own.rank, own.size) = (index as u32, ranks.len() as u32);
        Ok(Some(TierBackend { backend: own.backend(name)?, ranks }))
    }

    /// The number in this tier of one of the group's ranks.
    pub(super) fn index(&self, rank: u32) -> Option<u32> {
        self.ranks.iter().position(|r| *r == rank).map(|index| index as u32)
    }

    /// Does a step among the tier's ranks, and waits for it. The span's memory is the op's until this returns.
    pub(super) fn run(&self, outer: &Outer, step: &Step, span: &Span, reduce: ReduceOp) -> Result {
        let Step { number, op, root, .. } = *step;
        let params = Params { reduce, root: self.index(root).unwrap_or_default(), ..Params::default() };
        let spans = Sink { outputs: [*span].into_iter().collect(), ..Sink::default() };
        let later = patience(outer.timeout) * u32::from(number);
        let mut request = Outer { deadline: outer.deadline + later, ..*outer }.step(number, op, params, spans);
        // The op may be a step itself; the number of this one replaces its own.
        request.fingerprint.rest ^= u32::from(outer.fingerprint.step).wrapping_mul(0x85eb_ca6b);
        run_step(&*self.backend, request).map_err(|e| self.in_group(e))
    }

    /// A tier's error, by the group's numbers.
    fn in_group(&self, mut error: Error) -> Error {
        let report = error.report_mut();
        report.guilty.iter_mut().for_each(|rank| *rank = self.ranks.get(*rank as usize).copied().unwrap_or(*rank));
        if !report.guilty.is_empty() {
            report.what = format!("{} (words count the ranks among {:?})", report.what, self.ranks);
        }
        error
    }
}

/// Has all ranks agree on the call, by a barrier with the call's own fingerprint: a rank that does its call in one tier
/// has that place in its calls, too, so ranks that only send find the difference.
pub(super) fn announce(backend: &dyn Backend, outer: &Outer) -> Result {
    let mut request = outer.step(0, OpKind::Barrier, Params::default(), Sink::default());
    request.fingerprint = outer.fingerprint;
    run_step(backend, request)
}

/// Does a step of an op by one backend, and waits for it.
fn run_step(backend: &dyn Backend, request: Request) -> Result {
    let op = request.op;
    nested(backend, None, request).map(drop).map_err(|mut error| {
        let report = error.report_mut();
        // Something was sent, if not in this step.
        report.status = Status::Failed;
        if report.op == Some(op) {
            report.op = None;
        }
        error
    })
}

/// How much later than the step before it a step ends: a rank that is late is named by those that wait for it first.
fn patience(timeout: Duration) -> Duration {
    let_go(timeout) / 5
}
