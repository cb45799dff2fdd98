//! The job: a request together with the sole right to complete it.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::{Frame, Request};
use crate::buffer::Outcome;
use crate::{Error, ErrorKind, Result};

/// One operation that a backend must complete. If a job is dropped without being completed, the operation ends with
/// [`ErrorKind::Abandoned`].
///
/// After completion the memory of the spans belongs to the caller again, and the backend must not use it.
#[must_use = "a job that is dropped fails as `Abandoned`"]
pub struct Job(NonNull<Frame>);

// SAFETY: the frame is `Sync`, and any thread may complete it.
unsafe impl Send for Job {}
// SAFETY: `&Job` only gives access to `&Request` and to copies of plain values.
unsafe impl Sync for Job {}

/// The identity of a job. No other job has the same identity while the op's handle exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(usize);

impl JobId {
    /// Returns the identity of this frame's job.
    pub(crate) fn of(frame: &Frame) -> JobId {
        JobId(std::ptr::from_ref(frame).addr())
    }
}

/// Proof that the buffers of an operation were leaked: the result of [`Job::fail_keeping`].
#[derive(Debug)]
#[non_exhaustive]
pub struct WrittenOff;

impl Job {
    /// Makes the job of this frame.
    ///
    /// # Safety
    /// This function is called once per frame. The frame does not move until the job is completed. If the frame is
    /// reference-counted, one of its references is the job's.
    #[inline]
    pub(crate) unsafe fn new(frame: NonNull<Frame>) -> Job {
        Job(frame)
    }

    #[inline]
    fn frame(&self) -> &Frame {
        // SAFETY: the frame exists at least until the job completes it.
        unsafe { self.0.as_ref() }
    }

    /// Returns the job's identity, by which [`Backend::cancel`](crate::backend::Backend::cancel) names jobs.
    pub fn id(&self) -> JobId {
        JobId::of(self.frame())
    }

    /// Returns the request: the op, its spans and parameters.
    #[inline]
    pub fn request(&self) -> &Request {
        &self.frame().request
    }

    /// Returns whether the operation owns the memory behind its spans, because it was started with owned buffers.
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
        // SAFETY: the job owned the right to complete the frame. It was forgotten, so it does not complete the frame
        // again.
        unsafe { Frame::complete(frame.as_ptr(), result) };
    }

    pub(crate) fn complete_cancelled(self) {
        let what = "the op was cancelled before any part of a message was sent or received";
        self.complete(Err(Error::new(ErrorKind::Aborted, what).rejected()));
    }

    /// Ends the operation although a device or library has not released the operation's buffers, and may never release
    /// them. The caller gets the error without the buffers, whose memory is leaked. Returns the job if the operation
    /// does not own its buffers.
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
        let what = "the backend dropped the operation without completing it; this is a bug in the backend";
        // SAFETY: the job owns the right to complete the frame, and is not used after this.
        unsafe { Frame::complete(self.0.as_ptr(), Err(Error::new(ErrorKind::Abandoned, what))) };
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(self.request()).finish()
    }
}
