//! How long a backend may hold a job.

use std::time::Duration;

use crate::store::FOREVER;

/// How long after its deadline (or after `abort`) a backend may still hold a job: the larger of 100 ms and 1 % of the
/// timeout.
pub fn let_go(timeout: Duration) -> Duration {
    (timeout.min(FOREVER) / 100).max(Duration::from_millis(100))
}

/// How long after its deadline a job is waited for before its backend is said to be defective: twice what it may take, for
/// a starved machine may run the backend's thread as late as that.
pub(crate) fn overdue(timeout: Duration) -> Duration {
    2 * let_go(timeout)
}
