//! Operations inside operations: the steps of a composed kernel, and the host part of a staged op.
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

/// The number, deadline and fingerprint that the steps of an operation inherit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    pub(crate) seq: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

impl Outer {
    /// Taken from a numbered request. It reads the clock if nobody has yet.
    pub(crate) fn of(request: &Request) -> Outer {
        let (seq, fingerprint, timeout) = (request.seq, request.fingerprint, request.timeout);
        Outer { seq, fingerprint, timeout, deadline: request.deadline() }
    }

    /// Makes a step's request for the CPU. It has the outer number, deadline and fingerprint; `step` tells steps apart.
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

/// Waits on drop until the job is completed, so that the frame on the stack is not left before, even if the backend
/// panics.
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
        let what =
            "the backend did not let go of a step's memory in time; this can only wait on: a defect of the backend";
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

/// Runs a step on the backend and waits for it. Until this returns, the memory behind the step's spans stays and is
/// used only by the step. `lane` is the group, rank and backend for errors.
pub(crate) fn nested(backend: &dyn Backend, lane: Option<&Origin>, request: Request) -> Result<Outcome> {
    let mut frame = Frame::new(request);
    frame.lane = lane.map(NonNull::from);
    let frame = &frame;
    let wait = UntilDone { frame, backend };
    // SAFETY: the frame stays until `wait` has seen it done.
    let job = unsafe { Job::new(NonNull::from(frame)) };
    backend.submit(job);
    drop(wait);
    // SAFETY: done, and nobody else has the frame.
    unsafe { frame.take_outcome() }
}

/// A step that nobody waits for, with the values that must live as long as it runs.
#[repr(C)]
pub(crate) struct Detached<T> {
    frame: Frame,
    _kept: T,
}

impl<T: Send + Sync + 'static> Detached<T> {
    /// Starts a step on the backend. `kept` is dropped when the step is done and this handle is gone.
    pub(crate) fn start(backend: &dyn Backend, mut request: Request, kept: T) -> Arc<Detached<T>> {
        request.caller = Caller::Continues;
        let mut frame = Frame::new(request);
        frame.release = Some(Self::release);
        let state = Arc::new(Detached { frame, _kept: kept });
        let frame = Arc::into_raw(state.clone()).cast::<Frame>().cast_mut();
        // SAFETY: an Arc's pointer is not null, and the frame comes first (repr(C)); the count taken here keeps it until
        // the job releases it.
        let job = unsafe { Job::new(NonNull::new_unchecked(frame)) };
        // A backend that panics drops the job, which ends the step with an error.
        contain("a backend's submit", || backend.submit(job));
        state
    }

    /// Gives up the job's reference.
    ///
    /// # Safety
    /// Called once, with the frame of `start`.
    unsafe fn release(frame: *const Frame) {
        // SAFETY: made by `Arc::into_raw` in `start`.
        let state = unsafe { Arc::from_raw(frame.cast::<Self>()) };
        contain("the drop of a step's memory", || drop(state));
    }

    /// Which job the backend was given.
    pub(crate) fn id(&self) -> JobId {
        JobId::of(&self.frame)
    }

    /// Whether the step is done. Otherwise the waker is called when it is. Only one thread may poll.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        self.frame.poll(waker)
    }

    /// The outcome of a step that is done. It is taken once, by the polling thread.
    pub(crate) fn outcome(&self) -> Result<Outcome> {
        if !self.frame.is_done() {
            return Err(Error::new(ErrorKind::Internal, "a step was asked for its outcome too early"));
        }
        // SAFETY: done, and the one poller is here.
        unsafe { self.frame.take_outcome() }
    }
}
