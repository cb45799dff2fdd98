//! Sends and receives, unfinished and finished.

use std::time::Instant;

use c10d_core::{Outcome, Result};

use crate::task::Task;

/// An unfinished send or receive.
pub(super) struct Posted {
    /// The number of the job in the ledger.
    pub(super) id: u64,
    pub(super) deadline: Instant,
    pub(super) task: Task,
    /// Whether the caller waits, and moves messages on its own thread until the job is done. Otherwise the backend's
    /// thread does.
    pub(super) watched: bool,
}

impl Posted {
    pub(super) fn ended(self, result: Result<Outcome>) -> Ended {
        Ended { id: self.id, watched: self.watched, result }
    }
}

/// A finished send or receive.
pub(super) struct Ended {
    pub(super) id: u64,
    pub(super) watched: bool,
    pub(super) result: Result<Outcome>,
}
