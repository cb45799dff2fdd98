//! Handles ranks whose program ends while they are in the group: the program calls `exit`, or `main` returns while the
//! group is in a `static`. Such a rank writes into the store that its program ended. So the peers need not wait for the
//! deadline, and can distinguish such an end from a crash.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::post::left;
use super::record::Calls;
use super::{CallCheck, PATIENCE};
use crate::backend::Fingerprint;
use crate::calls::History;
use crate::calls::letter::Letter;
use crate::catalog::OpKind;
use crate::process::{ExitNotice, at_end};
use crate::{ENDED_WITHOUT_LEAVING, Error, ErrorKind};

/// Registers the rank, so that it tells the peers if the program ends before the rank has left.
pub(super) fn register(check: &Arc<CallCheck>) {
    let check: Weak<CallCheck> = Arc::downgrade(check);
    at_end(check);
}

impl ExitNotice for CallCheck {
    fn is_due(&self) -> bool {
        !self.calls.lock().left
    }

    fn send(&self, until: Instant) {
        self.end_without_leaving(until);
    }
}

impl CallCheck {
    pub(super) fn end_without_leaving(&self, until: Instant) {
        let word = Letter::Ended(self.calls.lock().history(0, History::GOODBYE)).to_bytes(self.me);
        // A peer that has a question later reads the message under this key. The messages to the inboxes reach peers
        // that already wait for this rank in a call.
        let _ = self.store.set(&left(self.me), &word, until);
        for peer in (0..self.world).filter(|peer| *peer != self.me).take_while(|_| Instant::now() < until) {
            self.put(peer, &word, until);
        }
    }

    /// Handles the message of a peer whose program ended while the peer was in the group.
    pub(super) fn ended(&self, peer: u32, history: History) {
        let mut calls = self.calls.lock();
        if calls.ended.iter().any(|(rank, _)| *rank == peer) {
            return;
        }
        calls.ended.push((peer, history.until));
        let missed = calls.missed(self.me);
        drop(calls);
        self.handle_calls(peer, history, true);
        missed.iter().for_each(|error| (self.fail)(error));
    }

    /// If the backend's library reports with `error` that a peer is gone, and the peer's program ended while the peer
    /// was in the group, returns a new error that says so. Otherwise returns `error`. The function may wait up to a
    /// second for the store.
    pub fn in_its_words(&self, error: Error) -> Error {
        let report = error.report();
        let named: Vec<u32> = match report.kind {
            ErrorKind::PeerDead { .. } => report.guilty.clone(),
            // Another rank noticed that a program had ended, and aborted the group. The library's error names the rank
            // that aborted, not the rank whose program ended.
            ErrorKind::Aborted if report.what.contains(ENDED_WITHOUT_LEAVING) => (0..self.world).collect(),
            _ => return error,
        };
        let until = Instant::now() + PATIENCE;
        let ended: Vec<u32> =
            named.into_iter().filter(|rank| *rank != self.me && self.has_ended(*rank, until)).collect();
        if ended.is_empty() { error } else { gone(ended) }
    }

    fn has_ended(&self, peer: u32, until: Instant) -> bool {
        let known = || self.calls.lock().ended.iter().any(|(rank, _)| *rank == peer);
        known() || (self.read_goodbye(peer, until) && known())
    }
}

impl Calls {
    /// Returns the error for the open calls of this rank that need a peer whose program ended before the peer made the
    /// same calls. `None` if there are no such calls.
    pub(super) fn missed(&self, me: u32) -> Option<Error> {
        let missing = |rank: u32, until| self.open.iter().any(|o| o.number >= until && needs(&o.fingerprint, me, rank));
        let missing: Vec<u32> = self.ended.iter().filter(|e| missing(e.0, e.1)).map(|e| e.0).collect();
        (!missing.is_empty()).then(|| gone(missing))
    }
}

fn gone(ranks: Vec<u32>) -> Error {
    Error::new(ErrorKind::PeerDead { how: ENDED_WITHOUT_LEAVING.to_owned() }, "").guilty(ranks)
}

/// Returns whether rank `me` cannot complete the call without the peer.
fn needs(call: &Fingerprint, me: u32, peer: u32) -> bool {
    match OpKind::from_code(call.op) {
        Some(OpKind::Broadcast | OpKind::Scatter) => call.root == peer,
        Some(op) if op.is_rooted() => call.root == me || call.root == peer,
        _ => true,
    }
}
