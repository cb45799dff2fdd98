//! What the drop of a group's last handle does.

use std::time::Duration;

use super::Group;
use crate::error::complain;
use crate::panics::contain;
use crate::store::deadline_after;
use crate::{ErrorKind, backend};

/// How long the last handle's drop waits, unless the builder says otherwise.
pub(super) const DROP_WITHIN: Duration = Duration::from_secs(10);
/// How long what has failed may take to come back.
const FAILED_WITHIN: Duration = Duration::from_secs(1);

impl Group {
    /// Waits for what was started and for what peers have yet to take, then tells the peers that this rank leaves.
    pub(super) fn leave(&self) {
        let failed = self.failed.get();
        if failed.is_some_and(|cause| *cause.kind() == ErrorKind::Shutdown) {
            return;
        }
        // On the thread that ends an operation, which would wait for itself; or in a rank that panicked, which ends.
        let patience = match failed {
            _ if backend::is_telling() || std::thread::panicking() => Duration::ZERO,
            Some(_) => self.drop_within.min(FAILED_WITHIN),
            None => self.drop_within,
        };
        let deadline = deadline_after(patience);
        for lane in &self.lanes {
            contain("a backend's leave", || {
                let Err(error) = lane.leave(deadline) else { return };
                if failed.is_none() && !patience.is_zero() {
                    let error = lane.info.described(error);
                    tracing::error!(target: "c10d", group = %self.name, rank = self.rank, "dropped too early: {error:?}");
                    complain(&error);
                }
            });
        }
    }
}
