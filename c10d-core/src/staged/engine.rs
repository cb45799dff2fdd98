//! A thread that does ops, the line in front of it, and what it is doing right now.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use super::Slot;
use crate::{Error, ErrorKind, Result};

/// A thread that starts with its first op.
#[derive(Default)]
pub(super) struct Engine {
    line: Mutex<EngineQueue>,
    news: Condvar,
    doing: Mutex<Option<(&'static str, Instant)>>,
}

#[derive(Default)]
struct EngineQueue {
    slots: VecDeque<Arc<Slot>>,
    has_thread: bool,
    closed: bool,
    /// Something happened that the thread shall look at.
    roused: bool,
}

impl Engine {
    /// Puts an op in line. The first one starts the thread, which runs `body`.
    pub(super) fn push(&self, slot: Arc<Slot>, name: &str, body: impl FnOnce() + Send + 'static) -> Result {
        let mut line = self.line.lock();
        if !line.has_thread {
            std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|e| {
                Error::new(ErrorKind::Resource, "cannot start the thread that moves a device's memory").caused_by(e)
            })?;
            line.has_thread = true;
        }
        line.slots.push_back(slot);
        line.roused = true;
        drop(line);
        self.news.notify_one();
        Ok(())
    }

    /// Nothing more will come: the thread ends when the line is empty.
    pub(super) fn close(&self) {
        self.line.lock().closed = true;
        self.rouse();
    }

    /// Lets the thread look at what changed.
    pub(super) fn rouse(&self) {
        self.line.lock().roused = true;
        self.news.notify_one();
    }

    /// The next op; `None` when there will be none.
    pub(super) fn next(&self) -> Option<Arc<Slot>> {
        let mut line = self.line.lock();
        loop {
            if let Some(slot) = line.slots.pop_front() {
                return Some(slot);
            }
            if line.closed {
                return None;
            }
            self.news.wait(&mut line);
        }
    }

    /// All ops in line, as soon as the thread is roused or the time is over. `true` = closed.
    pub(super) fn take(&self, into: &mut Vec<Arc<Slot>>, patience: Option<Duration>) -> bool {
        let mut line = self.line.lock();
        while !line.roused && line.slots.is_empty() {
            match patience {
                Some(patience) => {
                    self.news.wait_for(&mut line, patience);
                    break;
                }
                None => self.news.wait(&mut line),
            }
        }
        line.roused = false;
        into.extend(line.slots.drain(..));
        line.closed
    }

    /// Says in which call of the device's runtime the thread is now.
    pub(super) fn does(&self, call: Option<&'static str>) {
        *self.doing.lock() = call.map(|call| (call, Instant::now()));
    }

    /// In which call of the device's runtime the thread is, and for how long.
    pub(super) fn doing(&self) -> Option<(&'static str, Duration)> {
        self.doing.lock().map(|(call, since)| (call, since.elapsed()))
    }
}
