//! Operations inside operations: the steps of a composed kernel, and the host's part of a staged op.
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

/// What the steps of an operation take over from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    pub(crate) seq: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

impl Outer {
    /// Of a request that was numbered. Reads the clock if nobody has.
    pub(crate) fn of(request: &Request) -> Outer {
        let (seq, fingerprint, timeout) = (request.seq, request.fingerprint, request.timeout);
        Outer { seq, fingerprint, timeout, deadline: request.deadline() }
    }

    /// A step's request on the CPU: the outer number, deadline and fingerprint, told apart by `step`.
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

/// Leaves a frame on the stack only when its job is back, also when the backend panics.
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

/// Has the backend do a step, and waits for it. The memory behind the step's spans stays and is the step's alone until
/// this returns. `lane` says who speaks in errors.
pub(crate) fn nested(backend: &dyn Backend, lane: Option<&Origin>, request: Request) -> Result<Outcome> {
    let mut frame = Frame::new(request);
    frame.lane = lane.map(NonNull::from);
    let frame = &frame;
    let wait = UntilDone { frame, backend };
    // SAFETY: the frame stays until it was seen done, by `wait`.
    let job = unsafe { Job::new(NonNull::from(frame)) };
    backend.submit(job);
    drop(wait);
    // SAFETY: done, and nobody else has the frame.
    unsafe { frame.take_outcome() }
}

/// A step that nobody waits for, with what must stay as long as it runs.
#[repr(C)]
pub(crate) struct Detached<T> {
    frame: Frame,
    _kept: T,
}

impl<T: Send + Sync + 'static> Detached<T> {
    /// Gives a step to the backend. `kept` is dropped after the step is over and this handle is gone.
    pub(crate) fn start(backend: &dyn Backend, mut request: Request, kept: T) -> Arc<Detached<T>> {
        request.caller = Caller::Continues;
        let mut frame = Frame::new(request);
        frame.release = Some(Self::release);
        let state = Arc::new(Detached { frame, _kept: kept });
        let frame = Arc::into_raw(state.clone()).cast::<Frame>().cast_mut();
        // SAFETY: an Arc's pointer is not null, and the frame comes first (repr(C)); the count taken here keeps it until
        // the job releases it.
        let job = unsafe { Job::new(NonNull::new_unchecked(frame)) };
        // A backend that panics drops the job on its way out, which says so.
        contain("a backend's submit", || backend.submit(job));
        state
    }

    /// Gives up the job's count.
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

    /// Whether the step is over; else the waker is called when it is. From one thread only.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        self.frame.poll(waker)
    }

    /// The outcome of a step that is over. Once, from the thread that polls.
    pub(crate) fn outcome(&self) -> Result<Outcome> {
        if !self.frame.is_done() {
            return Err(Error::new(ErrorKind::Internal, "a step was asked for its outcome too early"));
        }
        // SAFETY: done, and the one poller is here.
        unsafe { self.frame.take_outcome() }
    }
}
