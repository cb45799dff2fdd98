//! The peers that are gone, including those that left or died after the group had failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Phase};

use super::Health;
use crate::mesh::watch;

/// How long to wait after a death for further deaths, so that the error names all ranks that died together. This delay
/// matters little: the operating system takes much longer to end a process.
const TOGETHER: Duration = Duration::from_millis(20);

impl Health {
    /// Returns the peers that died or said goodbye.
    pub(crate) fn lost_ranks(&self) -> Vec<u32> {
        let state = self.state.lock();
        (0..).zip(&*state.peers).filter(|(_, p)| p.closed || p.left.is_some()).map(|(rank, _)| rank).collect()
    }

    /// Handles the death of a peer: fails the group 20 ms later, with an error that names all ranks that have died by
    /// then.
    pub(super) fn fail_of_deaths(self: &Arc<Self>, how: &str) {
        if self.failed() {
            return;
        }
        let (health, how) = (Arc::downgrade(self), how.to_owned());
        watch::at(Instant::now() + TOGETHER, move || {
            if let Some(health) = health.upgrade() {
                health.fail_of_known_deaths(how);
            }
        });
    }

    /// Fails the group because of all ranks that have died by now.
    pub(super) fn fail_of_known_deaths(&self, how: String) -> Error {
        let dead = self.state.lock().dead();
        self.fail(gone(dead, how))
    }

    /// Handles ranks that the parent group has `lost`, while this group is being made. If this rank has no connection
    /// to one of them yet, that rank will never connect, and the group fails.
    pub(in crate::mesh) fn fail_if_lost(&self, lost: &[u32]) {
        if lost.iter().any(|rank| *rank != self.rank && self.path(*rank).is_none()) {
            self.fail(gone(lost.to_vec(), BEFORE.to_owned()).phase(Phase::Connect));
        }
    }
}

/// The text for ranks that the parent group has lost.
pub(in crate::mesh) const BEFORE: &str = "gone from the parent group";

/// Makes the error of ranks that are gone.
pub(in crate::mesh) fn gone(ranks: Vec<u32>, how: String) -> Error {
    Error::new(ErrorKind::PeerDead { how }, String::new()).guilty(ranks)
}
