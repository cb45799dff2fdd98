//! Runs a [`Plan`] over the links to the peers, on the caller's thread.
//!
//! A sweep visits the unfinished steps in plan order and moves what can move; between sweeps that moved nothing the
//! thread pauses, and looks after the group's health and the deadline.

mod announce;
mod memory;
mod reduction;
mod steps;
#[cfg(test)]
mod tests;
mod wait;

use std::sync::Arc;
use std::time::Instant;

use c10d_core::backend::Fingerprint;
use c10d_core::{Error, ErrorKind, Result};

use crate::link::Link;
use crate::mesh::{Doubt, Health, Whom};
use crate::pause::Pause;
use crate::plan::{Action, After, Plan, Region, StepId};
use wait::Waiting;

pub(crate) use memory::Spaces;
pub(crate) use reduction::Reduction;

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
struct Direction {
    /// Payload of the op.
    total: u64,
    /// Bytes of the header that are done.
    head: usize,
    /// Whether the op has items here.
    used: bool,
    /// The last sweep in which an item had to stay, so that later ones had to queue.
    blocked: u32,
    /// The last sweep in which the link had too few bytes, or no room.
    starved: u32,
}

#[derive(Clone, Copy, Default)]
struct Traffic {
    out: Direction,
    into: Direction,
}

/// Sweeps that moved something between two looks at the clock.
const CLOCK_EVERY: u32 = 16;

/// Collectives between two looks at the calls of those of whom this rank heard nothing. What a peer that must be asked
/// calls is known at the second look after it.
const LOOK_EVERY: u32 = 4;

/// What [`Executor::done`] says of a step that is over.
const OVER: usize = usize::MAX;

/// Runs the ops of one lane on one rank, one after the other.
pub(crate) struct Executor {
    rank: u32,
    /// By rank; none to itself.
    links: Vec<Option<Link>>,
    health: Arc<Health>,
    pause: Pause,
    traffic: Vec<Traffic>,
    /// Bytes done, by step.
    done: Vec<usize>,
    /// The steps that are not over, in plan order.
    pending: Vec<StepId>,
    sweep: u32,
    sent: u64,
    /// Calls begun.
    begun: u64,
    /// Calls in doubt since the last look.
    fresh: Vec<Doubt>,
    /// Whether calls were in doubt after the last look, or are by now.
    in_doubt: bool,
    /// Collectives since the last look, while calls are in doubt.
    unlooked: u32,
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

    /// Announces the op, runs it to its end, and says that it is over. An error is the group's first cause: the group has
    /// failed, and all peers know or will know.
    pub(crate) fn run(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result {
        let announced = self.health.announce(&op.fingerprint);
        let result = announced.and_then(|()| {
            self.prepare(op, spaces).map_err(|e| self.health.fail(e))?;
            self.finish(op, spaces)
        });
        self.pause.reset();
        self.health.finish();
        let number = self.begun;
        self.begun += 1;
        if (self.in_doubt || op.unheard != Whom::Nobody) && result.is_ok() {
            return self.doubt(op, number);
        }
        result
    }

    /// Takes note of a call in which this rank did not hear of all others, and looks now and then what they called.
    #[inline]
    fn doubt(&mut self, op: &Op<'_>, number: u64) -> Result {
        if op.unheard != Whom::Nobody {
            self.fresh.push(Doubt { number, fingerprint: op.fingerprint, whom: op.unheard });
            self.in_doubt = true;
        }
        self.unlooked += 1;
        if self.unlooked < LOOK_EVERY { Ok(()) } else { self.verify(true) }
    }

    /// Looks what the others called. `wait`: for those that were asked last time.
    fn verify(&mut self, wait: bool) -> Result {
        self.unlooked = 0;
        self.in_doubt = self.health.verify(&mut self.fresh, wait)?;
        Ok(())
    }

    /// The rank leaves: looks a last time what the others called. Gives the disagreement for which the group has failed.
    pub(crate) fn conclude(&mut self, deadline: Instant) -> Option<Error> {
        self.health.conclude(&mut self.fresh, deadline)
    }

    fn finish(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result {
        let mut waiting = Waiting::default();
        let mut moves = 0u32;
        loop {
            let moved = self.sweep(op, spaces)?;
            if self.pending.is_empty() {
                return Ok(());
            }
            if moved {
                moves = moves.wrapping_add(1);
                if moves.is_multiple_of(CLOCK_EVERY) {
                    self.in_time(op, spaces)?;
                }
                self.pause.reset();
                if waiting.asked() {
                    self.health.moves();
                }
                waiting = Waiting::default();
            } else {
                self.wait(op, spaces, &mut waiting)?;
            }
        }
    }

    /// Adds up what goes to and comes from each peer, and sees that the plan stays inside its spaces.
    fn prepare(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result {
        let plan = op.plan;
        spaces.reserve(plan.scratch)?;
        self.traffic.fill(Traffic::default());
        self.sweep = 0;
        self.done.clear();
        self.done.resize(plan.steps.len(), 0);
        self.pending.clear();
        self.pending.extend(0..plan.steps.len() as StepId);
        let inside = |region: &Region| spaces.holds(region);
        for step in &plan.steps {
            let fits = match &step.action {
                Action::Send { peer, from } => self.use_direction(*peer, from.len, |s| &mut s.out) && inside(from),
                Action::Recv { peer, to } => self.use_direction(*peer, to.len, |s| &mut s.into) && inside(to),
                Action::Copy { from, to } => inside(from) && inside(to) && from.len == to.len,
                Action::Reduce { peers, own, to, .. } => {
                    let peers = plan.peers.get(peers.start as usize..peers.end as usize);
                    peers.is_some_and(|peers| peers.iter().all(|p| self.use_direction(*p, to.len, |s| &mut s.into)))
                        && inside(own)
                        && inside(to)
                        && own.len == to.len
                        && op.reduction.is_some()
                }
            };
            let follows = match step.after {
                After::Follow(d) => {
                    let target = plan.steps.get(d as usize).and_then(|s| s.action.target());
                    step.action.source().zip(target).is_some_and(|(source, target)| source.lies_in(&target))
                }
                _ => true,
            };
            if !fits || !follows {
                let what = format!("the plan does not fit the buffers: {step:?}");
                return Err(Error::new(ErrorKind::Internal, what));
            }
        }
        Ok(())
    }

    fn use_direction(&mut self, peer: u32, len: usize, direction: impl Fn(&mut Traffic) -> &mut Direction) -> bool {
        if self.links.get(peer as usize).is_none_or(Option::is_none) {
            return false;
        }
        let direction = direction(&mut self.traffic[peer as usize]);
        direction.total += len as u64;
        direction.used = true;
        true
    }

    /// Visits every unfinished step once. Whether anything moved.
    fn sweep(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result<bool> {
        self.sweep = self.sweep.wrapping_add(1);
        let mut moved = false;
        let mut kept = 0;
        for i in 0..self.pending.len() {
            let id = self.pending[i];
            moved |= self.advance(op, spaces, id, kept)?;
            if self.done[id as usize] != OVER {
                self.pending[kept] = id;
                kept += 1;
            }
        }
        self.pending.truncate(kept);
        Ok(moved)
    }
}
