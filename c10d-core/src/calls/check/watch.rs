//! Watches calls that take long: a peer for which this rank waits may itself be waiting in a different call.

use std::time::{Duration, Instant};

use super::CallCheck;
use super::post::SOON;
use crate::backend::Fingerprint;
use crate::calls::letter::Letter;
use crate::catalog::OpKind;

/// The time between two checks of the open calls, and the age at which an open call is first compared with the calls of
/// the peers.
pub(super) const STALLED: Duration = Duration::from_millis(100);
/// The largest world size at which a rank asks all other ranks about a call that takes long. In larger groups a rank
/// asks only the next rank. In groups of any size, a rank that is not the root asks only the root about a rooted call.
///
/// This is also the largest world size at which a rank that sends to a root compares its calls in doubt (see the
/// glossary in `docs/architecture.md`) with the calls of all ranks. In larger groups the rank compares them only with
/// the calls of the root.
pub(super) const SMALL_WORLD: u32 = 8;

/// Returns the age at which an open call is next compared with the calls of the peers, after `asked` comparisons: 100
/// ms, 1 s, 2 s, 4 s and so on. One comparison is not enough: a peer may not have made its call yet, or may leave
/// before it reads the question.
///
/// Calls in which this rank receives are compared as well: the rank that should send may be waiting in a different
/// call.
pub(super) fn next_age(asked: u32) -> Duration {
    if asked == 0 { STALLED } else { Duration::from_secs(1 << (asked - 1).min(20)) }
}

impl CallCheck {
    /// Asks peers about the oldest open call, if that call has reached the next age at which it is compared. If a peer
    /// has already reported a disagreement, fails the group instead. `seen` is the number of calls begun at the last
    /// check. Returns whether this function must run again.
    pub(super) fn watch(&self, seen: &mut u64) -> bool {
        let mut calls = self.calls.lock();
        if calls.disagreement.is_some() || (calls.open.is_empty() && calls.begun == *seen) {
            calls.watched = calls.disagreement.is_some();
            return false;
        }
        *seen = calls.begun;
        let dispute = calls.dispute.clone();
        let Some(open) = calls.open.front_mut() else { return true };
        if open.since.elapsed() < next_age(open.asked) {
            return true;
        }
        open.asked += 1;
        let (number, call) = (open.number, open.fingerprint);
        if let Some((by, disagreement)) = dispute {
            let error = disagreement.seen_from(self.me, None, by);
            calls.disagreement = Some(error.clone());
            drop(calls);
            (self.fail)(&error);
            return false;
        }
        drop(calls);
        let soon = Instant::now() + SOON;
        for peer in self.waited_for(&call) {
            self.deliver_to(peer, &Letter::Ask { from: number }, soon);
        }
        true
    }

    /// Returns the ranks that are asked about a call that takes long.
    fn waited_for(&self, call: &Fingerprint) -> Vec<u32> {
        let rooted = OpKind::from_code(call.op).is_some_and(OpKind::is_rooted);
        match self.world {
            _ if rooted && call.root != self.me => vec![call.root],
            ..=SMALL_WORLD => (0..self.world).filter(|rank| *rank != self.me).collect(),
            _ => vec![(self.me + 1) % self.world],
        }
    }
}
