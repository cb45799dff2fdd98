//! Threads of the backend.

use c10d_core::panics::contain;
use c10d_core::{Error, ErrorKind, Result};

/// Starts a thread of this name.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result {
    let what = format!("thread {name}");
    let body = move || contain(&what, body);
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|e| Error::new(ErrorKind::Resource, format!("no thread for {name}")).caused_by(e))
}
