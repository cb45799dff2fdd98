//! Operations that are part of another operation: the steps of a composed kernel, and the host part of a staged op.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{Backend, Caller, Fingerprint, Frame, Job, JobId, Origin, Request, overdue};
use crate::buffer::{Outcome, Sink};
use crate::catalog::OpKind;
use crate::error::complain;
use crate::options::Params;
use crate::panics::contain;
use crate::types::DispatchKey;
use crate::{Error, ErrorKind, Result};

/// The number, deadline and fingerprint of an operation, which its steps inherit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    pub(crate) seq: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

impl Outer {
    /// Copies these values from a request, which must have its number already.
    pub(crate) fn of(request: &Request) -> Outer {
        let (seq, fingerprint, timeout) = (request.seq, request.fingerprint, request.timeout);
        Outer { seq, fingerprint, timeout, deadline: request.deadline() }
    }

    /// Makes the request of a step on host memory. The request has the number, deadline and fingerprint of the
    /// operation. Only the field `step` of the fingerprint differs.
    pub(crate) fn step(&self, step: u8, op: OpKind, params: Params, spans: Sink) -> Request {
        let mut request = Request::new(op, Caller::Waits, params, self.timeout);
        request.key = DispatchKey::Cpu;
        request.seq = self.seq;
        request.fingerprint = Fingerprint { step, ..self.fingerprint };
        request.spans = spans;
        request.deadline = OnceLock::from(self.deadline);
        request
    }
}

/// Waits on drop until the job is completed. So the job never outlives `frame`, even if the backend panics.
struct UntilDone<'a> {
    frame: &'a Frame,
    backend: &'a dyn Backend,
}

impl Drop for UntilDone<'_> {
    fn drop(&mut self) {
        let request = &self.frame.request;
        if self.frame.is_done() || self.frame.wait_until(request.deadline() + overdue(request.timeout)) {
            return;
        }
        let what = "the backend has not released the memory of a step in time, so the call continues to wait; this \
            is a bug in the backend";
        let error = self.frame.described(Error::new(ErrorKind::Internal, what));
        self.backend.abort(&error);
        loop {
            complain(&error);
            if self.frame.wait_until(Instant::now() + Duration::from_secs(1)) {
                return;
            }
        }
    }
}

/// Runs a step on the backend and waits for it. The caller guarantees that the memory of the step's spans stays
/// allocated and is used only by the step until this function returns. `lane` is the group, rank and backend for
/// errors.
pub(crate) fn nested(backend: &dyn Backend, lane: Option<&Origin>, request: Request) -> Result<Outcome> {
    let mut frame = Frame::new(request);
    frame.lane = lane.map(NonNull::from);
    let frame = &frame;
    let wait = UntilDone { frame, backend };
    // SAFETY: the frame is not moved, and is dropped after `wait`, which waits until the frame is done.
    let job = unsafe { Job::new(NonNull::from(frame)) };
    backend.submit(job);
    drop(wait);
    // SAFETY: the frame is done, and no other thread has access to it.
    unsafe { frame.take_outcome() }
}

/// A step that runs while the caller continues, with a value that must exist as long as the step runs.
#[repr(C)]
pub(crate) struct Detached<T> {
    frame: Frame,
    _kept: T,
}

impl<T: Send + Sync + 'static> Detached<T> {
    /// Starts a step on the backend. `kept` is dropped when both the step is done and the handle is dropped.
    pub(crate) fn start(backend: &dyn Backend, mut request: Request, kept: T) -> Arc<Detached<T>> {
        request.caller = Caller::Continues;
        let mut frame = Frame::new(request);
        frame.release = Some(Self::release);
        let state = Arc::new(Detached { frame, _kept: kept });
        let frame = Arc::into_raw(state.clone()).cast::<Frame>().cast_mut();
        // SAFETY: the pointer of an `Arc` is not null, and the frame is the first field (`repr(C)`). The job owns the
        // reference that was cloned here, until `release` drops it.
        let job = unsafe { Job::new(NonNull::new_unchecked(frame)) };
        // A backend that panics drops the job, which ends the step with an error.
        contain("a backend's submit", || backend.submit(job));
        state
    }

    /// Drops the job's reference.
    ///
    /// # Safety
    /// This function is called once, with the frame of `start`.
    unsafe fn release(frame: *const Frame) {
        // SAFETY: the pointer was made by `Arc::into_raw` in `start`.
        let state = unsafe { Arc::from_raw(frame.cast::<Self>()) };
        contain("the drop of a step's memory", || drop(state));
    }

    pub(crate) fn id(&self) -> JobId {
        JobId::of(&self.frame)
    }

    /// Returns whether the step is done. If not, the waker is called when it is done. Only one thread may poll.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        self.frame.poll(waker)
    }

    /// Takes the outcome of a step that is done. Only the polling thread may call it, once.
    pub(crate) fn outcome(&self) -> Result<Outcome> {
        if !self.frame.is_done() {
            return Err(Error::new(ErrorKind::Internal, "the outcome of a step was taken before the step was done"));
        }
        // SAFETY: the frame is done. This is the polling thread, and no other thread takes the outcome.
        unsafe { self.frame.take_outcome() }
    }
}
