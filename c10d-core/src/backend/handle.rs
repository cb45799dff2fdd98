//! The job: a request together with the sole right to complete it.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::{Frame, Request};
use crate::buffer::Outcome;
use crate::{Error, ErrorKind, Result};

/// One operation that a backend must complete. It is one word wide. Completing it consumes it. If it is dropped without
/// completion, the operation ends with [`ErrorKind::Abandoned`], so a backend that forgets a job cannot hang its
/// caller.
///
/// After completion the memory of the spans belongs to the caller again, and the backend must not touch any span.
#[must_use = "a job that is dropped fails as `Abandoned`"]
pub struct Job(NonNull<Frame>);

// SAFETY: the frame is `Sync`, and the job is the one right to complete it, wherever it goes.
unsafe impl Send for Job {}
// SAFETY: `&Job` gives `&Request` and plain facts only.
unsafe impl Sync for Job {}

/// The identity of a job. No other job has the same one while the op's handle exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(usize);

impl JobId {
    /// The identity of this frame's job.
    pub(crate) fn of(frame: &Frame) -> JobId {
        JobId(std::ptr::from_ref(frame).addr())
    }
}

/// Proof that an operation's buffers were leaked.
#[derive(Debug)]
#[non_exhaustive]
pub struct WrittenOff;

impl Job {
    /// Makes the job of this frame.
    ///
    /// # Safety
    /// Made once per frame. The frame stays where it is until it is done; a counted frame's count includes the job's.
    #[inline]
    pub(crate) unsafe fn new(frame: NonNull<Frame>) -> Job {
        Job(frame)
    }

    #[inline]
    fn frame(&self) -> &Frame {
        // SAFETY: the frame lives at least until the job completes it.
        unsafe { self.0.as_ref() }
    }

    /// The job's identity, by which [`Backend::cancel`](crate::backend::Backend::cancel) asks for it.
    pub fn id(&self) -> JobId {
        JobId::of(self.frame())
    }

    /// The request: the op, its spans and parameters.
    #[inline]
    pub fn request(&self) -> &Request {
        &self.frame().request
    }

    /// Whether the operation owns the memory behind its spans, because it was started with owned buffers.
    pub fn owns_buffers(&self) -> bool {
        self.frame().owns_buffers
    }

    /// Ends the operation.
    #[inline]
    pub fn complete(self, result: Result) {
        self.complete_with(result.map(|()| Outcome::default()));
    }

    /// Ends the operation with an outcome, for ops that return more than their buffers.
    #[inline]
    pub fn complete_with(self, result: Result<Outcome>) {
        let frame = self.0;
        std::mem::forget(self);
        // SAFETY: the job was the one right to complete, and is gone.
        unsafe { Frame::complete(frame.as_ptr(), result) };
    }

    /// Ends an operation that was cancelled.
    pub(crate) fn complete_cancelled(self) {
        let what = "the op was cancelled before any message was taken or sent";
        self.complete(Err(Error::new(ErrorKind::Aborted, what).rejected()));
    }

    /// Ends the operation while something still holds its buffers and may never release them. The caller gets the error
    /// without the buffers, and their memory is leaked. This works only for operations that own their buffers; other
    /// jobs are returned.
    pub fn fail_keeping(self, error: Error) -> std::result::Result<WrittenOff, Job> {
        if !self.owns_buffers() {
            return Err(self);
        }
        self.frame().kept.store(true, Ordering::Release);
        self.complete_with(Err(error));
        Ok(WrittenOff)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let what = "the backend dropped the operation without an answer; this is a defect of the backend";
        // SAFETY: the job is the one right to complete, and is going away.
        unsafe { Frame::complete(self.0.as_ptr(), Err(Error::new(ErrorKind::Abandoned, what))) };
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(self.request()).finish()
    }
}
