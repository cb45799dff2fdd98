//! What is run, and who runs it.

use std::sync::Arc;
use std::time::Instant;

use c10d_core::Result;
use c10d_core::backend::Fingerprint;

use super::reduction::Reduction;
use crate::link::Link;
use crate::mesh::Health;
use crate::pause::Pause;
use crate::plan::{Plan, StepId};
use c10d_core::calls::{Doubt, Whom};

/// One op, as this rank runs it.
pub(crate) struct Op<'a> {
    /// What to do.
    pub(crate) plan: &'a Plan,
    /// What all ranks must agree on.
    pub(crate) fingerprint: Fingerprint,
    /// Whether lengths may differ between ranks, so that only the two ranks of a pair can compare theirs.
    pub(crate) uneven: bool,
    /// Bytes of an element; 1 where there are none.
    pub(crate) elem: usize,
    /// How to reduce; needed where the plan reduces.
    pub(crate) reduction: Option<Reduction>,
    /// Of whom this rank hears nothing in it, so that it must look afterwards whether they made the same call.
    pub(crate) unheard: Whom,
    /// When it must be over; asked only when it has to wait.
    pub(crate) deadline: &'a dyn Fn() -> Instant,
}

/// One direction of the traffic with one peer, during one op.
#[derive(Clone, Copy, Default)]
pub(super) struct Direction {
    /// Payload of the op.
    pub(super) total: u64,
    /// Bytes of the header that are done.
    pub(super) head: usize,
    /// Whether the op has items here.
    pub(super) used: bool,
    /// The last sweep in which an item had to stay, so that later ones had to queue.
    pub(super) blocked: u32,
    /// The last sweep in which the link had too few bytes, or no room.
    pub(super) starved: u32,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Traffic {
    pub(super) out: Direction,
    pub(super) into: Direction,
}

/// Collectives between two looks at the calls of those of whom this rank heard nothing. What a peer that must be asked
/// calls is known at the second look after it.
pub(super) const LOOK_EVERY: u32 = 4;

/// What [`Executor::done`] says of a step that is over.
pub(super) const OVER: usize = usize::MAX;

/// Runs the ops of one lane on one rank, one after the other.
pub(crate) struct Executor {
    pub(super) rank: u32,
    /// By rank; none to itself.
    pub(super) links: Vec<Option<Link>>,
    pub(super) health: Arc<Health>,
    pub(super) pause: Pause,
    pub(super) traffic: Vec<Traffic>,
    /// Bytes done, by step.
    pub(super) done: Vec<usize>,
    /// The steps that are not over, in plan order.
    pub(super) pending: Vec<StepId>,
    pub(super) sweep: u32,
    pub(super) sent: u64,
    /// Calls begun.
    pub(super) begun: u64,
    /// Calls in doubt since the last look.
    pub(super) fresh: Vec<Doubt>,
    /// Whether calls were in doubt after the last look, or are by now.
    pub(super) in_doubt: bool,
    /// Collectives since the last look, while calls are in doubt.
    pub(super) unlooked: u32,
}

impl Executor {
    /// `links[p]` leads to rank `p`; the place of the own rank is empty.
    pub(crate) fn new(rank: u32, links: Vec<Option<Link>>, health: Arc<Health>, pause: Pause) -> Executor {
        let traffic = vec![Traffic::default(); links.len()];
        Executor {
            rank,
            links,
            health,
            pause,
            traffic,
            done: Vec::new(),
            pending: Vec::new(),
            sweep: 0,
            sent: 0,
            begun: 0,
            fresh: Vec::with_capacity(LOOK_EVERY as usize),
            in_doubt: false,
            unlooked: 0,
        }
    }

    /// The links to the peers, for when nothing runs.
    pub(crate) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        (0..).zip(&self.links).filter_map(|(peer, link)| Some((peer, link.as_ref()?)))
    }

    /// How many bytes of payload this rank has sent in all ops so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Looks what the others called. `wait`: for those that were asked last time.
    pub(super) fn verify(&mut self, wait: bool) -> Result {
        self.unlooked = 0;
        self.in_doubt = self.health.verify(&mut self.fresh, wait)?;
        Ok(())
    }
}
