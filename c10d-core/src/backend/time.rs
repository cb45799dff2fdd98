//! How long a backend may keep a job after the deadline.

use std::time::Duration;

use crate::store::FOREVER;

/// Returns how long a backend may keep a job after the job's deadline (or after `abort`): the larger of 100 ms and 1 %
/// of the timeout.
pub fn let_go(timeout: Duration) -> Duration {
    (timeout.min(FOREVER) / 100).max(Duration::from_millis(100))
}

/// Returns how long after a job's deadline core waits before it reports that the backend is defective. It is twice the
/// time of [`let_go`], since on a busy machine the backend's thread may run late.
pub(crate) fn overdue(timeout: Duration) -> Duration {
    2 * let_go(timeout)
}
