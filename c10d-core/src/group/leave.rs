//! Leaving a group when its last handle is dropped.

use std::time::{Duration, Instant};

use super::Group;
use crate::error::complain;
use crate::panics::contain;
use crate::store::deadline_after;
use crate::{ErrorKind, backend};

/// How long the drop of the last handle may wait if the builder does not set it.
pub(super) const DROP_WITHIN: Duration = Duration::from_secs(10);
/// How long the drop of the last handle of a failed group may wait. A shorter time that the builder set takes
/// precedence.
const FAILED_WITHIN: Duration = Duration::from_secs(1);
/// How long a rank that leaves may wait for requests of its backends that are changing the store.
pub(super) const WRITES_WITHIN: Duration = Duration::from_secs(1);

impl Group {
    /// Waits until the started operations are done and the peers have received everything that this rank sent. Then
    /// tells the peers that this rank leaves.
    pub(super) fn leave(&self) {
        let failed = self.failed.get();
        if failed.is_some_and(|cause| *cause.kind() == ErrorKind::Shutdown) {
            return;
        }
        // A thread that is completing an operation does not wait here, because it could wait for itself.
        let patience = match failed {
            _ if backend::is_reporting() || std::thread::panicking() => Duration::ZERO,
            Some(_) => self.drop_within.min(FAILED_WITHIN),
            None => self.drop_within,
        };
        let deadline = deadline_after(patience);
        for lane in &self.lanes {
            contain("a backend's leave", || {
                let Err(error) = lane.leave(deadline) else { return };
                if failed.is_none() && !patience.is_zero() {
                    let error = lane.info.described(error);
                    tracing::error!(
                        target: "c10d", group = %self.name, rank = self.rank,
                        "the last handle was dropped, and leaving the group failed: {error:?}"
                    );
                    complain(&error);
                }
            });
        }
        self.backend_store.leave(Instant::now() + WRITES_WITHIN.min(patience));
    }
}
