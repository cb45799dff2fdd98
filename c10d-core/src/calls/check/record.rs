//! The calls that a rank remembers of itself.

use std::collections::VecDeque;
use std::time::Instant;

use crate::Error;
use crate::backend::Fingerprint;
use crate::calls::letter::Parted;
use crate::calls::{Doubts, History};

/// What this rank called.
pub(super) struct Calls {
    pub(super) begun: u64,
    pub(super) recent: VecDeque<(u64, Fingerprint)>,
    pub(super) doubts: Doubts,
    /// The calls that are not done.
    pub(super) open: VecDeque<OpenCall>,
    /// Whether the sending thread watches those.
    pub(super) watched: bool,
    /// The number of collectives since the peers were asked, while calls are in doubt.
    pub(super) unasked: u32,
    /// A peer's report about a call that this rank has not made.
    pub(super) dispute: Option<(u32, Parted)>,
    /// The disagreement that ended it.
    pub(super) parted: Option<Error>,
    pub(super) left: bool,
    /// The peers whose program ended while they were in the group, each with its first missing call.
    pub(super) ended: Vec<(u32, u64)>,
}

/// A call that is not done.
pub(super) struct OpenCall {
    pub(super) number: u64,
    pub(super) fingerprint: Fingerprint,
    pub(super) since: Instant,
    /// How often the peers were asked about it.
    pub(super) asked: usize,
}

impl Calls {
    /// The history of calls from this number on.
    pub(super) fn history(&self, from: u64, most: usize) -> History {
        let recent = self.recent.iter().filter(|(number, _)| *number >= from).copied();
        let calls = recent.chain(self.doubts.since(from).take(most + 1)).collect();
        History::new(self.begun, calls, most)
    }

    /// The latest call of this kind, if it is remembered.
    pub(super) fn find(&self, which: impl Fn(&Fingerprint) -> bool) -> Option<Fingerprint> {
        let recent = self.recent.iter().rev().map(|(_, call)| *call);
        recent.chain(self.doubts.since(0).map(|(_, call)| call)).find(which)
    }
}
