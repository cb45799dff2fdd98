//! How long a backend may hold a job after its deadline.

use std::time::Duration;

use crate::store::FOREVER;

/// How long after its deadline (or after `abort`) a backend may still hold a job: the larger of 100 ms and 1 % of the
/// timeout.
pub fn let_go(timeout: Duration) -> Duration {
    (timeout.min(FOREVER) / 100).max(Duration::from_millis(100))
}

/// How long after its deadline core waits for a job before it reports the backend as defective: twice the allowed time,
/// since the backend's thread may run late on a busy machine.
pub(crate) fn overdue(timeout: Duration) -> Duration {
    2 * let_go(timeout)
}
