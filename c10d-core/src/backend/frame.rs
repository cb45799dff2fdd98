//! The frame of one operation: request, state, outcome, waiter.
//!
//! A blocking call keeps it on the caller's stack; other calls keep it at the head of a reference-counted allocation.
//! The states are: `EMPTY → DONE`; with a waiter `EMPTY → WAITING → TAKING → DONE`. After storing `DONE`, the completer
//! touches nothing, since a stack frame may be gone.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Waker;
use std::thread::Thread;
use std::time::Instant;

use super::telling::Telling;
use super::{Origin, Request};
use crate::buffer::Outcome;
use crate::panics::contain;
use crate::types::DType;
use crate::{Error, ErrorKind, Result};

const EMPTY: u8 = 0;
const WAITING: u8 = 1;
const TAKING: u8 = 2;
const DONE: u8 = 3;

/// Introduces, in an error, the call in which a disagreement about another call was found.
const FOUND: &str = "; found in ";

/// Who is told when the operation is done.
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

/// How the completer gives up its reference to a counted frame. It does not unwind, whatever it drops.
pub(crate) type Release = unsafe fn(*const Frame);

pub(crate) struct Frame {
    pub(crate) request: Request,
    /// The group, rank and backend for errors. The thread that runs the call keeps it alive for longer than the frame;
    /// `None` until the call has a lane.
    pub(crate) lane: Option<NonNull<Origin>>,
    /// `None` for a frame on the stack.
    pub(crate) release: Option<Release>,
    /// Whether the frame's allocation owns the buffers (not merely borrows them).
    pub(crate) owns_buffers: bool,
    /// Whether the buffers are leaked, because a backend that still holds them may write to them later.
    pub(crate) kept: AtomicBool,
    state: AtomicU8,
    outcome: UnsafeCell<Option<Result<Outcome>>>,
    waiter: UnsafeCell<Option<Waiter>>,
}

// SAFETY: only the one completer writes `outcome`, before `DONE`, and it is read after that. The one waiter writes
// `waiter` in `EMPTY` (only it changes that state to `WAITING`); the completer takes it in `TAKING`, or the waiter
// after `WAITING → EMPTY`. The request does not change once a job exists. `lane` points to a `Sync` value.
unsafe impl Sync for Frame {}
// SAFETY: as above; the contents are `Send`.
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

    /// Ends the job: stores the outcome, wakes the waiter, and gives up the job's reference to a counted frame.
    ///
    /// # Safety
    /// The holder of the job calls it, at most once per frame. Nobody uses the memory of the spans meanwhile, except
    /// buffers that are kept. `this` is not used afterwards. It does not unwind, since the thread is a backend's.
    #[inline]
    pub(crate) unsafe fn complete(this: *const Frame, result: Result<Outcome>) {
        // SAFETY: the frame lives until DONE is stored.
        let frame = unsafe { &*this };
        let result = match (&frame.request.spans.sparse, result) {
            (Some(sparse), Ok(outcome)) if !sparse.accepts(&outcome) => {
                contain("the drop of a kernel's result", || drop(outcome));
                let what = "the kernel of a sparse call gave no tensor of the caller's kind; this is a defect of it";
                Err(Error::new(ErrorKind::Internal, what))
            }
            (_, result) => result,
        };
        let result = result.map_err(|e| frame.described(e));
        if !frame.kept.load(Ordering::Relaxed) {
            // SAFETY: the operation is not done, so its owner does not use the memory yet, and the job's holder
            // does not use it any more.
            unsafe { frame.normalise() };
        }
        // SAFETY: the caller guarantees it.
        unsafe { Self::set(this, result) }
    }

    /// The outcome of a call that was done without a job.
    ///
    /// # Safety
    /// Nobody else uses the spans' memory during this call.
    #[inline]
    pub(crate) unsafe fn concluded(&self, result: Result) -> Result<Outcome> {
        // SAFETY: the caller guarantees it.
        unsafe { self.normalise() };
        match result {
            // A message's sender, which its receiver named.
            Ok(()) => Ok(Outcome { source: self.request.params.peer, payload: None }),
            Err(error) => Err(self.described(error)),
        }
    }

    /// Makes the values of the outputs valid for their type.
    ///
    /// # Safety
    /// Nobody else uses the spans' memory during this call.
    #[inline]
    unsafe fn normalise(&self) {
        let outputs = self.request.outputs();
        if outputs.first().is_some_and(|s| s.dtype() == DType::Bool) {
            // SAFETY: the caller guarantees it.
            outputs.iter().for_each(|span| unsafe { span.normalise_bool() });
        }
    }

    /// Stores the outcome unchanged: `complete` without the checks of a job's result.
    ///
    /// # Safety
    /// The same as for `complete`.
    #[inline]
    pub(crate) unsafe fn set(this: *const Frame, result: Result<Outcome>) {
        // SAFETY: the frame lives until DONE is stored, and a counted one until it is released.
        let frame = unsafe { &*this };
        // SAFETY: sole completer, state is not DONE.
        unsafe { *frame.outcome.get() = Some(result) };
        let release = frame.release;
        let waiter = loop {
            if frame.state.compare_exchange(EMPTY, DONE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                break None;
            }
            if frame.state.compare_exchange(WAITING, TAKING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                // SAFETY: TAKING gives the cell to us.
                let waiter = unsafe { (*frame.waiter.get()).take() };
                frame.state.store(DONE, Ordering::Release);
                break waiter;
            }
            // The waiter is withdrawing at this moment.
            std::hint::spin_loop();
        };
        if release.is_none() && waiter.is_none() {
            return;
        }
        let _telling = Telling::begin();
        if let Some(release) = release {
            // SAFETY: the job's count, given up once.
            unsafe { release(this) };
        }
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Registers a waiter, unless the op is done already. `true` = done.
    fn enlist(&self, waiter: Waiter) -> bool {
        // SAFETY: state is EMPTY or DONE (the one waiter is us), so nobody else uses the cell.
        unsafe { *self.waiter.get() = Some(waiter) };
        if self.state.compare_exchange(EMPTY, WAITING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return false;
        }
        // SAFETY: DONE was reached from EMPTY, so the completer never looks at the cell.
        unsafe { *self.waiter.get() = None };
        true
    }

    /// Removes the waiter. `true` = the op is done.
    fn withdraw(&self) -> bool {
        match self.state.compare_exchange(WAITING, EMPTY, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: EMPTY again, the cell is ours.
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

    /// Waits until the op is done or the time has come. `true` = done. One waiter at a time.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        // A waker of an earlier poll may still be registered.
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

    /// For futures: `true` = done. Otherwise the waker is called when the op is done.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        self.is_done() || self.withdraw() || self.enlist(Waiter::Waker(waker.clone()))
    }

    /// The outcome of a done frame.
    ///
    /// # Safety
    /// The frame is done, and nobody else takes the outcome.
    #[inline]
    pub(crate) unsafe fn take_outcome(&self) -> Result<Outcome> {
        // SAFETY: DONE: the completer is finished; the caller is alone.
        let outcome = unsafe { (*self.outcome.get()).take() };
        outcome.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "the outcome was taken twice")))
    }

    /// Adds to an error the facts that only dispatch knows. Fields that the backend filled stay.
    pub(crate) fn described(&self, mut error: Error) -> Error {
        let request = &self.request;
        if let Some(lane) = self.lane {
            // SAFETY: held for longer than the frame lives.
            unsafe { lane.as_ref() }.describe(&mut error);
        }
        let report = error.report_mut();
        if let (ErrorKind::Mismatch { .. }, Some(seq)) = (&report.kind, report.seq)
            && (request.op.is_p2p() || seq as u32 != request.seq as u32)
            && !report.what.contains(FOUND)
            && self.lane.is_some()
        {
            // The ranks made different calls earlier than in the call that reports it. A step inside an op, or a
            // message of a backend's own, has no lane and is not a call of the user's.
            report.what += FOUND;
            report.what += &match request.op.is_p2p() {
                true => request.op.name().to_owned(),
                false => format!("{}, seq {}", request.op, request.seq),
            };
        }
        report.op.get_or_insert(request.op);
        report.seq.get_or_insert(request.seq);
        report.elapsed.get_or_insert_with(|| request.elapsed());
        report.deadline.get_or_insert(request.timeout);
        error
    }
}
