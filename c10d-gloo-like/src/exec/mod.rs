//! Runs a [`Plan`](crate::plan::Plan) over the links to the peers, on the caller's thread.
//!
//! A sweep visits the unfinished steps in plan order and moves the data that can move. After a sweep that moved
//! nothing, the thread pauses, and checks the group's health and the deadline.

mod announce;
pub(crate) mod exchange;
mod executor;
mod failure;
mod memory;
mod notes;
mod reduction;
mod steps;
#[cfg(test)]
mod tests;
mod wait;

use std::mem;
use std::time::Instant;

use c10d_core::panics::contain;
use c10d_core::{Error, ErrorKind, Result};

use crate::plan::{Action, After, Region, StepId};
use crate::shm::{Lend, PAST_CACHE};
use c10d_core::calls::{Doubt, Whom, hub};
use executor::{Direction, LOOK_EVERY, OVER, Traffic};
use wait::Waiting;

pub(crate) use executor::{Call, Executor, Op};
pub(crate) use memory::Spaces;
pub(crate) use reduction::Reduction;

/// The number of sweeps with progress between two reads of the clock.
const CLOCK_EVERY: u32 = 16;

/// A guard against a panic of a call. If the call panics, the guard is dropped. The guard then fails the group, before
/// the caller can free the memory that this rank has lent to its peers. If the call returns, the guard is forgotten.
struct OnPanic<'a>(&'a mut Executor);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        let error = Error::new(ErrorKind::Internal, "a collective panicked; this is a bug in the backend");
        // A second panic must not leave this function, since it would end the process.
        contain("the failure of a group", || drop(self.0.health.fail(error)));
    }
}

impl Executor {
    /// Announces a call, runs `body`, and records the end of the call. If this returns an error or panics, the group
    /// has failed. The error is the first cause of the failure, and all peers have received this cause or will receive
    /// it.
    #[inline]
    pub(crate) fn call(&mut self, call: &Call, body: impl FnOnce(&mut Executor) -> Result) -> Result {
        let announced = self.health.announce(&call.fingerprint);
        let on_panic = OnPanic(self);
        let result = announced.and_then(|()| body(on_panic.0));
        mem::forget(on_panic);
        self.health.finish();
        let number = self.begun;
        self.begun += 1;
        result?;
        let world = self.links.len() as u32;
        if let Some(notes) = &mut self.notes {
            // If the call has a hub (the root of a reduce or gather), the hub has received a header from every other
            // rank, and compared the calls. So only the hub sends notes.
            let silent = hub(call.op, call.root).is_none_or(|hub| hub == self.rank);
            let misses = |peer: &u32| silent && call.unheard_by(*peer, world) != Whom::Nobody && *peer != self.rank;
            let missed = (0..world).filter(misses);
            if notes.made(&call.fingerprint, missed) {
                notes.send(&mut self.links);
            }
        }
        let unheard = call.unheard_by(self.rank, world);
        if self.in_doubt || unheard != Whom::Nobody {
            return self.doubt(call, number, unheard);
        }
        Ok(())
    }

    /// Runs the plan of an announced op to its end. This rank has already sent everything to the peers of lower rank
    /// than `written`.
    pub(crate) fn run(&mut self, op: &Op<'_>, spaces: &mut Spaces, written: u32) -> Result {
        self.prepare(op, spaces).map_err(|e| self.health.fail(e))?;
        let is_written =
            |id: &StepId| matches!(op.plan.steps[*id as usize].action, Action::Send { peer, .. } if peer < written);
        for id in self.pending.extract_if(.., |id| is_written(id)) {
            self.done[id as usize] = OVER;
        }
        let result = self.finish(op, spaces);
        self.pause.reset();
        result
    }

    /// Counts a call, and records it if this rank received nothing from some ranks (`unheard`). Every [`LOOK_EVERY`]
    /// calls, compares the recorded calls with those of these ranks.
    #[inline]
    fn doubt(&mut self, call: &Call, number: u64, unheard: Whom) -> Result {
        let hub = hub(call.op, call.root);
        if unheard != Whom::Nobody {
            self.fresh.push(Doubt { number, fingerprint: call.fingerprint, whom: unheard, hub });
            self.in_doubt = true;
        }
        self.unlooked += 1;
        if self.unlooked < LOOK_EVERY || self.settles_early() { Ok(()) } else { self.verify(hub.is_some()) }
    }

    /// When this rank leaves, checks whether the other ranks made the same calls. If they did not, the group has
    /// failed; returns the error.
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

    /// Adds up the bytes to and from each peer, and checks that the plan stays inside its spaces.
    fn prepare(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result {
        let plan = op.plan;
        spaces.reserve(plan.scratch)?;
        let bytes = spaces.tensor_bytes().saturating_mul(self.links.len());
        let past_cache = bytes >= PAST_CACHE && plan.only_stores_received() && self.all_share_memory();
        spaces.set_past_cache(past_cache);
        let lend = if plan.overwrites_sent() {
            Lend::Nothing
        } else if op.reduction.is_none() && plan.has_other_work() && !past_cache {
            // The peer copies lent bytes while this rank does other work. Without other work, or if this rank's copies
            // bypass the cache, copies through the ring are faster.
            Lend::All
        } else {
            Lend::Windows
        };
        spaces.set_lend(lend);
        self.choose_payloads(plan, spaces, lend);
        self.traffic.fill(Traffic::default());
        self.sweep = 0;
        self.done.clear();
        self.done.resize(plan.steps.len(), 0);
        self.pending.clear();
        self.pending.extend(0..plan.steps.len() as StepId);
        let inside = |region: &Region| spaces.holds(region);
        for step in &plan.steps {
            let fits = match &step.action {
                Action::Send { peer, from, .. } => self.use_direction(*peer, from.len, |s| &mut s.out) && inside(from),
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
}
