//! The backend's record of a job in flight.

use std::time::{Duration, Instant};

use c10d_core::OpKind;
use c10d_core::backend::{Fingerprint, Job};

use super::ticket::Ticket;
use crate::mesh::Wait;

/// A call with a timeout of this length or more counts as a call without a deadline (see [`Live::endless`]).
pub(super) const ENDLESS: Duration = Duration::from_secs(1 << 29);

/// A receive whose message has not arrived.
pub(super) struct Posted {
    pub(super) ticket: Ticket,
    /// The sender; `None`: any rank.
    pub(super) from: Option<u32>,
    pub(super) job: Job,
}

/// The backend's record of a job in flight.
pub(super) struct Live {
    pub(super) ticket: Ticket,
    /// Whether no thread waits inside the call.
    pub(super) started: bool,
    pub(super) op: OpKind,
    pub(super) fingerprint: Fingerprint,
    pub(super) peer: Option<u32>,
    pub(super) deadline: Option<Instant>,
    /// The time at which a thread first found the job waiting.
    pub(super) since: Option<Instant>,
    /// Whether the job's wait has been reported.
    pub(super) reported: bool,
    /// Whether the job's timeout is at least [`ENDLESS`]. Its wait is not reported, since its message may never arrive.
    pub(super) endless: bool,
}

impl Live {
    /// Returns the job's wait, as other ranks get it. The op comes from the job: the fingerprint of a receive names the
    /// send.
    pub(super) fn wait(&self) -> Wait {
        let wait = Wait::of(&self.fingerprint, self.peer.into_iter().collect());
        Wait { op: self.op as u8, started: self.started, ..wait }
    }
}
