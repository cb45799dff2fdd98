//! What is known of a job for as long as it is in flight.

use std::time::{Duration, Instant};

use c10d_core::OpKind;
use c10d_core::backend::{Fingerprint, Job};

use super::ticket::Ticket;
use crate::mesh::Wait;

/// Who waits longer has no deadline to speak of.
pub(super) const ENDLESS: Duration = Duration::from_secs(1 << 29);

/// A receive without a message.
pub(super) struct Posted {
    pub(super) ticket: Ticket,
    /// `None`: from whichever rank.
    pub(super) from: Option<u32>,
    pub(super) job: Job,
}

/// What a job needs to be known for as long as it is in flight.
pub(super) struct Live {
    pub(super) ticket: Ticket,
    /// Nobody waits inside the call.
    pub(super) started: bool,
    pub(super) op: OpKind,
    pub(super) fingerprint: Fingerprint,
    pub(super) peer: Option<u32>,
    pub(super) deadline: Option<Instant>,
    /// When somebody first looked after it, and found it waiting.
    pub(super) since: Option<Instant>,
    /// It is spoken of no more, or was not to be.
    pub(super) told: bool,
    /// It waits for something that need not come as long as the group lasts.
    pub(super) endless: bool,
}

impl Live {
    /// The wait, as others are told of it. Both ends of a message have the same fingerprint; which end this is, the op says.
    pub(super) fn wait(&self) -> Wait {
        let wait = Wait::of(&self.fingerprint, self.peer.into_iter().collect());
        Wait { op: self.op as u8, started: self.started, ..wait }
    }
}
