//! The state of the peers and of the failure.

use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind};

use crate::mesh::doing::Doing;
use crate::mesh::revoke::Revoke;
use crate::mesh::verdict;
use c10d_core::calls::CallId;

/// How long after a goodbye the peer's data, or the cause of a failure, may still arrive over other connections.
pub(super) const UNDERWAY: Duration = Duration::from_secs(1);

/// What this rank knows of the group.
pub(super) struct HealthState {
    pub(super) cause: Option<Error>,
    /// The report that two peers disagree about a call that this rank has yet to make.
    pub(super) dispute: Option<Box<Revoke>>,
    pub(super) peers: Box<[Peer]>,
}

#[derive(Clone, Default)]
pub(super) struct Peer {
    pub(super) left: Option<Left>,
    /// Whether the peer's bytes arrive over TCP.
    pub(super) tcp: bool,
    /// Whether the control connection has ended.
    pub(super) closed: bool,
    /// The time at which the peer's last answer to a query arrived.
    pub(super) last_answer: Option<Instant>,
    /// The peer's last answer, with the number of the query.
    pub(super) answer: Option<(u32, Doing)>,
    /// The number of queries that the peer has not answered.
    pub(super) unanswered: u32,
    /// How the control connection ended, while it is unknown whether the peer lives.
    pub(super) unsure: Option<String>,
    /// The ranks that want to know whether the peer answers, each with the number of the query to the peer for that
    /// rank.
    pub(super) askers: Vec<(u32, u32)>,
}

/// The goodbye of a peer.
#[derive(Clone, Copy)]
pub(super) struct Left {
    /// The last call that the peer completed.
    pub(super) last: Option<CallId>,
    pub(super) at: Instant,
    /// Whether the peer left because the group has failed. The cause may arrive later over another connection.
    pub(super) failed: bool,
    /// Whether the peer's program ended without leaving the group.
    pub(super) exited: bool,
}

impl Left {
    /// Returns why the peer is gone, as a text.
    pub(super) fn text(&self) -> String {
        verdict::left_text(self.last, self.exited)
    }
}

impl Peer {
    /// Returns the peer's goodbye if all its bytes have arrived. Its last bytes arrived `quiet` ago.
    pub(super) fn gone(&self, quiet: Duration) -> Option<Left> {
        let soon = self.tcp || self.left.is_some_and(|l| l.failed);
        let still = !self.tcp || quiet >= UNDERWAY;
        self.left.filter(|l| !soon || (l.at.elapsed() >= UNDERWAY && still))
    }
}

impl HealthState {
    /// The peers whose control connection ended without a goodbye.
    pub(super) fn dead(&self) -> Vec<u32> {
        (0..).zip(&*self.peers).filter(|(_, p)| p.closed && p.left.is_none()).map(|(rank, _)| rank).collect()
    }

    /// If a death is the cause, adds all ranks known to be dead.
    pub(super) fn with_all_dead(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::PeerDead { .. } => {
                let all: Vec<u32> = error.report().guilty.iter().copied().chain(self.dead()).collect();
                error.guilty(all)
            }
            _ => error,
        }
    }
}
