//! Threads of the backend.

use c10d_core::panics::contain;
use c10d_core::{Result, process};

/// Starts a thread of this name, whose panics stop there.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result {
    let what = format!("thread {name}");
    process::spawn(name, move || contain(&what, body))
}
