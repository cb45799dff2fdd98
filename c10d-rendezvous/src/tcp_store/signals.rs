//! Signals from the owner of a server to its thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use c10d_core::sync::Mutex;

#[derive(Debug, Default)]
pub(super) struct Signals {
    stop: AtomicBool,
    drain_until: Mutex<Option<Instant>>,
}

impl Signals {
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Makes the server stop when no client that has done the handshake is connected, or at `until`.
    pub(super) fn drain(&self, until: Instant) {
        *self.drain_until.lock() = Some(until);
    }

    pub(super) fn drain_until(&self) -> Option<Instant> {
        *self.drain_until.lock()
    }

    pub(super) fn stop_now(&self, in_use: impl FnOnce() -> bool) -> bool {
        self.stop.load(Ordering::Acquire) || self.drain_until().is_some_and(|at| !in_use() || Instant::now() >= at)
    }
}
