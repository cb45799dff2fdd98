//! One operation on its way: the request, the sole right to complete it, and whoever waits.

mod aside;
mod frame;
mod handle;
mod nested;
mod request;

pub use aside::Aside;
pub(crate) use frame::Frame;
pub use handle::{Job, Kept};
pub(crate) use nested::{Detached, Outer, nested};
pub use request::{Caller, Outcome, Request};

use std::time::Duration;

use crate::store::FOREVER;

/// How long after its deadline (or after `abort`) a backend may still hold a job: the larger of 100 ms and 1 % of the
/// timeout.
pub fn let_go(timeout: Duration) -> Duration {
    (timeout.min(FOREVER) / 100).max(Duration::from_millis(100))
}
