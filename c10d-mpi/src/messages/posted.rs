//! Jobs that ask for a message, and their ends.

use std::time::Instant;

use c10d_core::{Outcome, Result};

use crate::task::Task;

/// A send or receive that is not done.
pub(super) struct Posted {
    /// The number of its job in the ledger.
    pub(super) id: u64,
    pub(super) deadline: Instant,
    pub(super) task: Task,
    /// Whether a caller's thread moves it.
    pub(super) watched: bool,
}

impl Posted {
    pub(super) fn ended(self, result: Result<Outcome>) -> Ended {
        Ended { id: self.id, watched: self.watched, result }
    }
}

/// A send or receive that is done.
pub(super) struct Ended {
    pub(super) id: u64,
    pub(super) watched: bool,
    pub(super) result: Result<Outcome>,
}
