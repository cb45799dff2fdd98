//! The data about a job in flight.

use std::time::{Duration, Instant};

use c10d_core::OpKind;
use c10d_core::backend::{Fingerprint, Job};

use super::ticket::Ticket;
use crate::mesh::Wait;

/// A longer timeout counts as no deadline.
pub(super) const ENDLESS: Duration = Duration::from_secs(1 << 29);

/// A receive without a message.
pub(super) struct Posted {
    pub(super) ticket: Ticket,
    /// The sender; `None`: any rank.
    pub(super) from: Option<u32>,
    pub(super) job: Job,
}

/// The data about a job in flight.
pub(super) struct Live {
    pub(super) ticket: Ticket,
    /// Whether no thread waits inside the call.
    pub(super) started: bool,
    pub(super) op: OpKind,
    pub(super) fingerprint: Fingerprint,
    pub(super) peer: Option<u32>,
    pub(super) deadline: Option<Instant>,
    /// When it was first found waiting.
    pub(super) since: Option<Instant>,
    /// Whether it was reported, or must not be.
    pub(super) told: bool,
    /// Whether it waits for something that may not come during the life of the group.
    pub(super) endless: bool,
}

impl Live {
    /// The wait, as other ranks are told of it. Both ends of a message have the same fingerprint; the op tells which
    /// end this is.
    pub(super) fn wait(&self) -> Wait {
        let wait = Wait::of(&self.fingerprint, self.peer.into_iter().collect());
        Wait { op: self.op as u8, started: self.started, ..wait }
    }
}
