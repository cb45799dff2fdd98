//! Threads of this library.

use crate::panics::contain;
use crate::{Error, Result};

/// Starts a detached thread of this name. A panic of `body` ends there, and [`tracing`] reports it.
///
/// # Errors
/// `Resource` if the system refuses; it names the limit that was reached.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result {
    let what = format!("the thread {name:?}");
    let body = move || contain(&what, body);
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|e| Error::no_thread(format!("cannot start the thread {name:?}"), e))
}
