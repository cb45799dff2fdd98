//! The peers that are gone, even if they left or died after the group's failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Phase};

use super::Health;
use crate::mesh::watch;

/// How long to wait after a death for further deaths: the error names all ranks that died together. The delay is short,
/// compared with the time that the operating system takes to end a process.
const TOGETHER: Duration = Duration::from_millis(20);

impl Health {
    /// Returns the peers that died or said goodbye.
    pub(crate) fn lost_ranks(&self) -> Vec<u32> {
        let state = self.state.lock();
        (0..).zip(&*state.peers).filter(|(_, p)| p.closed || p.left.is_some()).map(|(rank, _)| rank).collect()
    }

    /// Handles the death of a peer: fails the group after [`TOGETHER`], with an error that names all ranks that died.
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

    /// Fails the group because of all known deaths.
    pub(super) fn fail_of_known_deaths(&self, how: String) -> Error {
        let dead = self.state.lock().dead();
        self.fail(gone(dead, how))
    }

    /// Handles ranks that the parent group has `lost` while this group is made. A lost rank without a connection to
    /// this rank will never connect, so the group fails.
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
