//! Threads of this library.

use crate::panics::contain;
use crate::{Error, Result};

/// Starts a detached thread with this name. A panic of `body` ends the thread, and [`tracing`] reports it.
///
/// # Errors
/// `Resource` if the thread cannot be started; the error names the limit that was reached.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result {
    let what = format!("the thread {name:?}");
    let body = move || contain(&what, body);
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|e| Error::no_thread(format!("cannot start the thread {name:?}"), e))
}
