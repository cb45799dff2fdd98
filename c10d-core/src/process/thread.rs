//! Threads of this library.

use crate::{Error, Result};

/// Starts a thread of this name, which nobody waits for.
///
/// # Errors
/// `Resource` if the system gives none; says which limit was reached.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|e| Error::no_thread(format!("cannot start the thread {name:?}"), e))
}
