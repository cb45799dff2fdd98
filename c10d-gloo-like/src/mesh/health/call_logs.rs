//! The call logs that are in shared memory: this rank's, and those of the peers that share memory with it.

use std::sync::Arc;

use crate::call_log::CallLog;
use crate::shm::Segment;

/// The segments that contain the call logs.
pub(super) struct CallLogs {
    own: Option<Arc<Segment>>,
    peers: Box<[Option<Arc<Segment>>]>,
}

impl CallLogs {
    pub(super) fn new(own: Option<Arc<Segment>>, peers: Box<[Option<Arc<Segment>>]>) -> CallLogs {
        CallLogs { own, peers }
    }

    /// Returns this rank's call log, if it is in a segment.
    #[inline]
    pub(super) fn own(&self) -> Option<&CallLog> {
        Some(&self.own.as_ref()?.header().call_log)
    }

    pub(super) fn segment(&self) -> Option<&Segment> {
        self.own.as_deref()
    }

    /// Returns a peer's call log, if the peer shares memory with this rank.
    pub(super) fn of(&self, peer: u32) -> Option<&CallLog> {
        Some(&self.peers.get(peer as usize)?.as_ref()?.header().call_log)
    }
}
