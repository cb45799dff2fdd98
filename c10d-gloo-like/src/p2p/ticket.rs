//! The numbers of jobs, and the finished jobs.

use c10d_core::backend::Job;
use c10d_core::{Outcome, Result};
use smallvec::SmallVec;

/// A job's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(pub(super) u64);

impl Ticket {
    /// The ticket of messages that belong to no job.
    pub(super) const NONE: Ticket = Ticket(u64::MAX);
}

/// Finished jobs. They are completed without the lock, since a completion may run a user's waker.
pub(super) type Finished = SmallVec<[(Job, Result<Outcome>); 2]>;
