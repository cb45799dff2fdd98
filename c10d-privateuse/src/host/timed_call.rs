//! Calls of plugins' functions that are rare and may hang. Each call runs on a separate thread. If the call does not
//! return by its deadline, the thread is abandoned.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Instant;

use c10d_core::{Error, ErrorKind, Result};

pub(super) enum TimedCall<T> {
    Returned(T),
    Hangs,
}

/// Runs `f` on a separate thread, and waits for its result until the deadline.
pub(super) fn call_until<T: Send + 'static>(
    deadline: Instant,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<TimedCall<T>> {
    let (tell, told) = channel();
    spawn_detached(move || {
        let _ = tell.send(f());
    })?;
    match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(value) => Ok(TimedCall::Returned(value)),
        Err(RecvTimeoutError::Timeout) => Ok(TimedCall::Hangs),
        Err(RecvTimeoutError::Disconnected) => Err(Error::new(ErrorKind::Internal, "a plugin's thread ended early")),
    }
}

pub(super) fn spawn_detached(f: impl FnOnce() + Send + 'static) -> Result {
    let spawned = std::thread::Builder::new().name("c10d plugin call".into()).spawn(f);
    spawned.map(drop).map_err(|e| Error::no_thread("cannot start a thread for a plugin", e))
}
