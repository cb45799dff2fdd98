//! A started call, for any number of threads.

use std::future::Future as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use c10d::{Error, Result, Work};

use crate::memory::{Callback, Lent};

/// The result of the library's handle: the inputs, the outputs and the sender's rank.
pub(crate) type Back = (Vec<Lent>, Vec<Lent>, u32);

/// A started call. One thread at a time takes its handle to wait. The thread that finds the op finished stores the
/// outcome and notifies the others.
pub(crate) struct Started {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    /// The library's handle; `None` while a thread waits on it, and once there is an outcome.
    handle: Option<Work<Back>>,
    /// The sender's rank or the error, once the op is finished.
    outcome: Option<Result<u32>>,
    /// The function to call when the op is finished.
    tell: Option<Callback>,
}

impl Started {
    pub(crate) fn new(handle: Work<Back>) -> Arc<Started> {
        let inner = Inner { handle: Some(handle), outcome: None, tell: None };
        Arc::new(Started { inner: Mutex::new(inner), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the op is finished.
    pub(crate) fn is_done(&self) -> bool {
        let inner = self.lock();
        inner.outcome.is_some() || inner.handle.as_ref().is_some_and(Work::is_done)
    }

    /// Waits for the outcome. Returns `None` if the op is not finished within `patience`.
    pub(crate) fn wait(self: &Arc<Self>, patience: Option<Duration>) -> Option<Result<u32>> {
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut inner = self.lock();
        loop {
            if let Some(outcome) = &inner.outcome {
                return Some(outcome.clone());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let Some(handle) = inner.handle.take() else {
                // Another thread has the handle, and will notify this thread.
                if left.is_some_and(|left| left.is_zero()) {
                    return None;
                }
                let slice = left.unwrap_or(Duration::from_secs(3600));
                inner = self.changed.wait_timeout(inner, slice).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            drop(inner);
            let over = match left {
                None => Ok(handle.wait()),
                Some(left) => handle.wait_timeout(left),
            };
            inner = self.lock();
            match over {
                Ok(result) => {
                    let outcome = inner.settle(result.map_err(Error::from));
                    drop(inner);
                    self.changed.notify_all();
                    return Some(outcome);
                }
                Err(handle) => {
                    inner.handle = Some(handle);
                    self.listen(&mut inner);
                    drop(inner);
                    self.changed.notify_all();
                    return None;
                }
            }
        }
    }

    /// Makes the library call `tell` once, when the op is finished. If the op is already finished, returns `false` and
    /// does not call `tell`.
    pub(crate) fn notify(self: &Arc<Self>, tell: Callback) -> bool {
        let mut inner = self.lock();
        if inner.outcome.is_some() || inner.handle.as_ref().is_some_and(Work::is_done) {
            return false;
        }
        inner.tell = Some(tell);
        self.listen(&mut inner);
        true
    }

    /// Registers a waker with the library if there is a function to call.
    fn listen(self: &Arc<Self>, inner: &mut Inner) {
        if inner.tell.is_none() {
            return;
        }
        let Some(handle) = &mut inner.handle else { return };
        let waker = Waker::from(Arc::new(Listener { started: Arc::downgrade(self), called: AtomicBool::new(false) }));
        if let Poll::Ready(result) = std::pin::Pin::new(handle).poll(&mut Context::from_waker(&waker)) {
            inner.handle = None;
            drop(inner.settle(result.map_err(Error::from)));
        }
    }
}

impl Inner {
    fn settle(&mut self, result: Result<Back>) -> Result<u32> {
        let outcome = result.map(|(_, _, source)| source);
        self.outcome = Some(outcome.clone());
        if let Some(tell) = self.tell.take() {
            tell.call();
        }
        outcome
    }
}

/// The waker, which calls `tell` when the op is finished. A thread that waits later stores the outcome.
struct Listener {
    started: Weak<Started>,
    called: AtomicBool,
}

impl Wake for Listener {
    fn wake(self: Arc<Self>) {
        if self.called.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(started) = self.started.upgrade() {
            let tell = started.lock().tell.take();
            if let Some(tell) = tell {
                tell.call();
            }
        }
    }
}
