//! The queue of a thread that runs ops, and the call of the device's runtime in which the thread currently is.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Slot;
use crate::backend::WorkerQueue;
use crate::sync::Mutex;

#[derive(Default)]
pub(super) struct Engine {
    queue: WorkerQueue<Arc<Slot>>,
    doing: Mutex<Option<(&'static str, Instant)>>,
}

impl Deref for Engine {
    type Target = WorkerQueue<Arc<Slot>>;

    fn deref(&self) -> &WorkerQueue<Arc<Slot>> {
        &self.queue
    }
}

impl Engine {
    /// Records the call of the device's runtime in which the thread is now, if any.
    pub(super) fn does(&self, call: Option<&'static str>) {
        *self.doing.lock() = call.map(|call| (call, Instant::now()));
    }

    /// Returns the call of the device's runtime in which the thread is, and for how long it has been there.
    pub(super) fn doing(&self) -> Option<(&'static str, Duration)> {
        self.doing.lock().map(|(call, since)| (call, since.elapsed()))
    }
}
