//! Calls that are rare and may hang: each on a thread of its own, which is given up when the time is over.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Instant;

use c10d_core::{Error, ErrorKind, Result};

/// What became of a call.
pub(super) enum Aside<T> {
    Returned(T),
    /// It runs still; its thread is lost.
    Hangs,
}

/// Runs `f` elsewhere and waits for it until the deadline.
pub(super) fn aside<T: Send + 'static>(deadline: Instant, f: impl FnOnce() -> T + Send + 'static) -> Result<Aside<T>> {
    let (tell, told) = channel();
    detached(move || {
        let _ = tell.send(f());
    })?;
    match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(value) => Ok(Aside::Returned(value)),
        Err(RecvTimeoutError::Timeout) => Ok(Aside::Hangs),
        Err(RecvTimeoutError::Disconnected) => Err(Error::new(ErrorKind::Internal, "a plugin's thread ended early")),
    }
}

/// Runs `f` elsewhere.
pub(super) fn detached(f: impl FnOnce() + Send + 'static) -> Result {
    let spawned = std::thread::Builder::new().name("c10d plugin call".into()).spawn(f);
    spawned.map(drop).map_err(|e| Error::new(ErrorKind::Resource, "cannot start a thread for a plugin").source(e))
}
