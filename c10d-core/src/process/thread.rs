//! Threads of this library.

use crate::{Error, ErrorKind, Result};

/// Starts a thread of this name, which nobody waits for.
///
/// # Errors
/// `Resource` if the system gives none.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|e| {
        let what = format!("cannot start the thread {name:?}, without which this does not work");
        Error::new(ErrorKind::Resource, what).caused_by(e)
    })
}
