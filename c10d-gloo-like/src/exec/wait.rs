//! Waits while nothing moves: pauses, and checks the group's health and the deadline.

use std::time::{Duration, Instant};

use c10d_core::Result;

use super::announce::{HEADER, Header};
use super::executor::{Executor, Op};
use super::failure::age;
use super::memory::{Spaces, glance};
use crate::pause::Interest;

/// The time without progress after which this rank asks its peers about their calls.
const ASK_AFTER: Duration = Duration::from_millis(20);
/// The longest time between two questions about the peers' calls.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// How long after the deadline the executor still processes received data. This time is a part of the time in which a
/// backend must end a call (`c10d_core::backend::let_go`).
const OVERTIME: Duration = Duration::from_millis(50);

/// A time without progress.
pub(super) struct Waiting {
    /// The first reading of the clock after data last moved.
    since: Option<Instant>,
    /// The time without progress after which the peers are asked next.
    ask: Duration,
    /// Whether the wait has been reported.
    told: bool,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting { since: None, ask: ASK_AFTER, told: false }
    }
}

impl Waiting {
    /// Whether the peers were asked about their calls. If so, [`Health::waits`](crate::mesh::Health::waits) has
    /// recorded this rank's wait.
    pub(super) fn asked(&self) -> bool {
        self.ask != ASK_AFTER
    }
}

impl Executor {
    /// Pauses briefly after a sweep that moved nothing. Returns an error if the op cannot be completed.
    pub(super) fn wait(&mut self, op: &Op<'_>, spaces: &mut Spaces, waiting: &mut Waiting) -> Result {
        if self.health.failed() {
            return self.last_look(op, spaces);
        }
        let sweep = self.sweep;
        let interest = self.links.iter().zip(&self.traffic).filter_map(|(link, side)| {
            let (read, write) = (side.into.starved == sweep, side.out.starved == sweep);
            link.as_ref().filter(|_| read || write).map(|link| Interest::of(link, read, write))
        });
        let Some(now) = self.pause.wait(interest) else { return Ok(()) };
        // The first reading of the deadline starts the op's timeout, and the elapsed time in an error. So it precedes
        // the checks that may return an error.
        let deadline = (op.deadline)();
        let since = *waiting.since.get_or_insert(now);
        let quiet = now.duration_since(since);
        if let Some(gone) = (0..self.traffic.len() as u32).find(|p| self.needs(*p) && self.health.has_left(*p, quiet)) {
            // Data that the peer sent or took before it left counts, even if the op waits for data of other ranks.
            if !self.sweep(op, spaces)? && self.needs(gone) {
                self.health.needs(gone, quiet)?;
            }
            return Ok(());
        }
        if now >= deadline {
            return self.overtime(op, spaces);
        }
        if quiet >= waiting.ask {
            waiting.ask = quiet + quiet.min(ASK_EVERY);
            self.ask(op)?;
            if !waiting.told && self.health.warn_after().is_some_and(|after| quiet >= after) {
                waiting.told = true;
                self.health.report_wait(&op.fingerprint, self.waits_for(op), quiet, (op.deadline)());
            }
        }
        Ok(())
    }

    /// After the group has failed, checks whether the data that the op needs had arrived.
    fn last_look(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result {
        while self.sweep(op, spaces)? {}
        if self.pending.is_empty() { Ok(()) } else { self.health.check() }
    }

    /// Processes the data that had arrived by the deadline.
    #[cold]
    fn overtime(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result {
        let end = Instant::now() + OVERTIME;
        while self.sweep(op, spaces)? && Instant::now() < end {}
        if self.pending.is_empty() {
            return Ok(());
        }
        let waits_for = self.waits_for(op);
        self.health.waits(&op.fingerprint, waits_for.clone());
        Err(self.health.timeout(&op.fingerprint, &waits_for))
    }

    /// Checks the deadline while data moves: a slow peer must not delay the op beyond it.
    #[cold]
    pub(super) fn in_time(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result {
        if Instant::now() >= (op.deadline)() { self.overtime(op, spaces) } else { Ok(()) }
    }

    fn starved(&self, peer: u32) -> bool {
        self.traffic[peer as usize].into.starved == self.sweep
    }

    /// Whether this rank waits for the peer, either to receive or to send.
    fn needs(&self, peer: u32) -> bool {
        self.starved(peer) || self.traffic[peer as usize].out.starved == self.sweep
    }

    /// Returns the first of these lists that is not empty: the ranks whose bytes are missing, the ranks that do not
    /// receive this rank's bytes, and the peers of the steps that are not done.
    fn waits_for(&self, op: &Op<'_>) -> Vec<u32> {
        let ranks = || 0..self.traffic.len() as u32;
        let mut ways: [Vec<u32>; 3] = [
            ranks().filter(|p| self.starved(*p)).collect(),
            ranks().filter(|p| self.traffic[*p as usize].out.starved == self.sweep).collect(),
            self.pending.iter().flat_map(|id| op.plan.partners(*id)).copied().collect(),
        ];
        ways[2].sort_unstable();
        ways[2].dedup();
        ways.into_iter().find(|ranks| !ranks.is_empty()).unwrap_or_default()
    }

    /// Asks the peers for their calls, and checks whether a peer has sent data that this op does not read.
    fn ask(&mut self, op: &Op<'_>) -> Result {
        self.health.waits(&op.fingerprint, self.waits_for(op));
        self.health.stalled(&op.fingerprint);
        if self.in_doubt {
            self.glance_at_calls()?;
        }
        for peer in 0..self.links.len() as u32 {
            if self.traffic[peer as usize].into.head == HEADER {
                continue;
            }
            self.take_notes(peer);
            let Some(link) = &mut self.links[peer as usize] else { continue };
            let Some(bytes) = glance(link).first::<HEADER>() else { continue };
            let theirs = Header::from_bytes(&bytes).fingerprint;
            match age(&theirs, &op.fingerprint) {
                0 if theirs != op.fingerprint => return Err(self.health.mismatch(peer, &op.fingerprint, &theirs)),
                // An earlier call, whose data this rank did not read.
                ..0 => self.health.stalled(&theirs),
                _ => {}
            }
        }
        Ok(())
    }
}
