//! Threads of this library.

use crate::panics::contain;
use crate::{Error, Result};

/// Starts a thread of this name, which nobody waits for. A panic of `body` ends there, and is told by [`tracing`].
///
/// # Errors
/// `Resource` if the system gives none; says which limit was reached.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result {
    let what = format!("the thread {name:?}");
    let body = move || contain(&what, body);
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|e| Error::no_thread(format!("cannot start the thread {name:?}"), e))
}
