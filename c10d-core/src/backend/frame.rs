//! The frame of one operation: request, state, outcome, waiter.
//!
//! The frame of a blocking call is on the caller's stack (a stack frame). The frame of any other call is at the head of
//! a reference-counted allocation (a counted frame). The job has one reference to this allocation.
//!
//! The thread that completes the operation is the completer; the thread or future that waits for it is the waiter. Each
//! frame has one completer and one waiter. The states are:
//!
//! - `EMPTY`: the operation is not done, and no waiter is registered. The waiter changes the state to `WAITING`, the
//!   completer changes it to `DONE`.
//! - `WAITING`: a waiter is registered. To withdraw, the waiter changes the state back to `EMPTY`. The completer
//!   changes it to `TAKING`.
//! - `TAKING`: the completer takes the waiter out of the frame. It then changes the state to `DONE`.
//! - `DONE`: the outcome is stored. The state does not change any more.
//!
//! After storing `DONE` the completer does not use a stack frame, since the frame's owner may already have freed the
//! frame. A counted frame still exists at that time, because the job still has its reference. The completer then drops
//! this reference.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Waker;
use std::thread::Thread;
use std::time::Instant;

use super::reporting::Reporting;
use super::{Origin, Request};
use crate::buffer::Outcome;
use crate::panics::contain;
use crate::{Error, ErrorKind, Result};

const EMPTY: u8 = 0;
const WAITING: u8 = 1;
const TAKING: u8 = 2;
const DONE: u8 = 3;

/// The thread or future that is woken when the operation is done.
enum Waiter {
    Thread(Thread),
    Waker(Waker),
}

impl Waiter {
    fn wake(self) {
        match self {
            Waiter::Thread(t) => t.unpark(),
            Waiter::Waker(w) => contain("the waker of a started operation", || w.wake()),
        }
    }
}

/// A function that drops the job's reference to a counted frame. It must not unwind, even if it drops the allocation.
pub(crate) type Release = unsafe fn(*const Frame);

pub(crate) struct Frame {
    pub(crate) request: Request,
    /// The group, rank and backend for errors; `None` until the call has a lane. The code that owns the frame
    /// guarantees that the value lives longer than the frame.
    pub(crate) lane: Option<NonNull<Origin>>,
    /// The function by which the completer releases a counted frame; `None` for a stack frame.
    pub(crate) release: Option<Release>,
    /// Whether the frame's allocation owns the buffers. If not, they are borrowed.
    pub(crate) owns_buffers: bool,
    /// Whether the buffers are leaked, because a backend has not released them and may write to them later.
    pub(crate) kept: AtomicBool,
    state: AtomicU8,
    outcome: UnsafeCell<Option<Result<Outcome>>>,
    waiter: UnsafeCell<Option<Waiter>>,
}

// SAFETY: no two threads use an `UnsafeCell` at the same time:
// - Only the completer writes `outcome`, before it stores `DONE`. The outcome is read only after `DONE`.
// - Only the waiter uses `waiter` in the state `EMPTY`, and in `DONE` if the previous state was `EMPTY`.
// - Only the completer uses `waiter` in the state `TAKING`, and only the completer sets this state.
// - No thread uses `waiter` in the state `WAITING`.
//
// The request does not change once a job exists, and `lane` points to a `Sync` value.
unsafe impl Sync for Frame {}
// SAFETY: as above, and all contents are `Send`.
unsafe impl Send for Frame {}

impl Frame {
    #[inline]
    pub(crate) fn new(request: Request) -> Frame {
        Frame {
            request,
            lane: None,
            release: None,
            owns_buffers: false,
            kept: AtomicBool::new(false),
            state: AtomicU8::new(EMPTY),
            outcome: UnsafeCell::new(None),
            waiter: UnsafeCell::new(None),
        }
    }

    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }

    /// Completes the job: stores the outcome, releases a counted frame, and wakes the waiter. `complete` does not
    /// unwind, since it runs on a backend's thread.
    ///
    /// # Safety
    /// The owner of the job calls this function, at most once per frame, and does not use `this` afterwards. No other
    /// code uses the memory of the spans during the call, unless `kept` is set.
    #[inline]
    pub(crate) unsafe fn complete(this: *const Frame, result: Result<Outcome>) {
        // SAFETY: the frame exists at least until `DONE` is stored.
        let frame = unsafe { &*this };
        let result = match (&frame.request.spans.sparse, result) {
            (Some(sparse), Ok(outcome)) if !sparse.accepts(&outcome) => {
                contain("the drop of a kernel's result", || drop(outcome));
                let what = "the kernel of a sparse call returned a result that is not a tensor of the caller's type; \
                    this is a bug in the kernel";
                Err(Error::new(ErrorKind::Internal, what))
            }
            (_, result) => result,
        };
        let result = result.map_err(|e| frame.described(e));
        if !frame.kept.load(Ordering::Relaxed) {
            // SAFETY: the operation is not done, so the owner of the buffers does not use their memory yet; the backend
            // does not use it any more.
            unsafe { frame.request.normalise() };
        }
        // SAFETY: the caller guarantees it.
        unsafe { Self::set(this, result) }
    }

    /// Does the same as `complete`, but stores the result unchanged and does not look at the outputs.
    ///
    /// # Safety
    /// The same as for `complete`.
    #[inline]
    pub(crate) unsafe fn set(this: *const Frame, result: Result<Outcome>) {
        // SAFETY: a stack frame exists until `DONE` is stored, and a counted frame exists until it is released below.
        let frame = unsafe { &*this };
        // SAFETY: this thread is the only completer, and no thread reads the outcome before `DONE`.
        unsafe { *frame.outcome.get() = Some(result) };
        let release = frame.release;
        let waiter = loop {
            if frame.state.compare_exchange(EMPTY, DONE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                break None;
            }
            if frame.state.compare_exchange(WAITING, TAKING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                // SAFETY: in `TAKING` only the completer uses the cell.
                let waiter = unsafe { (*frame.waiter.get()).take() };
                frame.state.store(DONE, Ordering::Release);
                break waiter;
            }
            // Both failed, since the waiter withdrew between the two `compare_exchange`. Try again.
            std::hint::spin_loop();
        };
        if release.is_none() && waiter.is_none() {
            return;
        }
        let _reporting = Reporting::begin();
        if let Some(release) = release {
            // SAFETY: this is the job's reference, and it is released only once.
            unsafe { release(this) };
        }
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Registers a waiter and returns `false`. If the op is done already, no waiter is registered, and the result is
    /// `true`.
    fn enlist(&self, waiter: Waiter) -> bool {
        // SAFETY: this thread is the only waiter, and no waiter is registered. So the state is `EMPTY`, or it changed
        // from `EMPTY` to `DONE`. In both cases the completer does not use the cell.
        unsafe { *self.waiter.get() = Some(waiter) };
        if self.state.compare_exchange(EMPTY, WAITING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return false;
        }
        // SAFETY: the state changed from `EMPTY` to `DONE`, so the completer does not use the cell.
        unsafe { *self.waiter.get() = None };
        true
    }

    /// Removes the registered waiter, if there is one. Returns whether the op is done.
    fn withdraw(&self) -> bool {
        match self.state.compare_exchange(WAITING, EMPTY, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: in `EMPTY` only the waiter uses the cell.
                unsafe { *self.waiter.get() = None };
                false
            }
            Err(EMPTY) => false,
            Err(_) => {
                while !self.is_done() {
                    std::hint::spin_loop();
                }
                true
            }
        }
    }

    /// Waits until the op is done or the deadline has passed. Returns whether the op is done. Only one thread may wait
    /// at a time.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        // The waker of an earlier `poll` may still be registered, so it is removed first.
        if self.is_done() || self.withdraw() || self.enlist(Waiter::Thread(std::thread::current())) {
            return true;
        }
        loop {
            let now = Instant::now();
            if now >= deadline {
                return self.withdraw();
            }
            std::thread::park_timeout(deadline - now);
            if self.is_done() {
                return true;
            }
        }
    }

    /// Returns whether the op is done. If not, the waker is registered, and is called when the op is done.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        self.is_done() || self.withdraw() || self.enlist(Waiter::Waker(waker.clone()))
    }

    /// Takes the outcome out of a frame that is done.
    ///
    /// # Safety
    /// The frame is done, and no other thread takes the outcome.
    #[inline]
    pub(crate) unsafe fn take_outcome(&self) -> Result<Outcome> {
        // SAFETY: after `DONE` the completer does not use the cell, and the caller is the only other user.
        let outcome = unsafe { (*self.outcome.get()).take() };
        outcome.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "the outcome was taken twice")))
    }

    /// Adds the properties of the call to an error; see [`Request::described`].
    pub(crate) fn described(&self, error: Error) -> Error {
        // SAFETY: the owner of the frame guarantees that the value lives longer than the frame.
        self.request.described(self.lane.map(|lane| unsafe { lane.as_ref() }), error)
    }
}
