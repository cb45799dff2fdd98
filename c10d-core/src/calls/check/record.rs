//! The record of a rank's own calls.

use std::collections::VecDeque;
use std::time::Instant;

use crate::Error;
use crate::backend::Fingerprint;
use crate::calls::letter::Disagreement;
use crate::calls::{Doubts, History};

/// The calls of this rank, and the results of comparing them with the calls of its peers.
pub(super) struct Calls {
    pub(super) begun: u64,
    pub(super) recent: VecDeque<(u64, Fingerprint)>,
    pub(super) doubts: Doubts,
    /// The calls that are not done, in the order in which they were made.
    pub(super) open: VecDeque<OpenCall>,
    /// Whether the sending thread watches the calls in `open`.
    pub(super) watched: bool,
    /// The number of collectives since the peers were last asked, counted while calls are in doubt.
    pub(super) unasked: u32,
    /// The rank of a peer, and its report about a call that this rank had not made when the report arrived.
    pub(super) dispute: Option<(u32, Disagreement)>,
    /// The disagreement with which the group has failed.
    pub(super) disagreement: Option<Error>,
    pub(super) left: bool,
    /// Whether the sending thread has ended, after it delivered all letters.
    pub(super) delivered: bool,
    /// The peers whose program ended while they were in the group, each with the number of the first call that the peer
    /// did not make.
    pub(super) ended: Vec<(u32, u64)>,
}

/// A call that is not done.
pub(super) struct OpenCall {
    pub(super) number: u64,
    pub(super) fingerprint: Fingerprint,
    pub(super) since: Instant,
    /// How often the peers were asked about the call because it takes long.
    pub(super) asked: u32,
}

impl Calls {
    /// Returns the report of at most `most` calls, from number `from` on.
    pub(super) fn history(&self, from: u64, most: usize) -> History {
        let recent = self.recent.iter().filter(|(number, _)| *number >= from).copied();
        let calls = recent.chain(self.doubts.since(from).take(most + 1)).collect();
        History::new(self.begun, calls, most)
    }

    /// Returns a call for which `which` returns `true`, if there is one: the latest among the recent calls, else the
    /// earliest among the calls in doubt.
    pub(super) fn find(&self, which: impl Fn(&Fingerprint) -> bool) -> Option<Fingerprint> {
        let recent = self.recent.iter().rev().map(|(_, call)| *call);
        recent.chain(self.doubts.since(0).map(|(_, call)| call)).find(which)
    }
}
