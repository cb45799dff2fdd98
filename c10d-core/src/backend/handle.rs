//! The job: a request together with the sole right to complete it.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::{Frame, Request};
use crate::buffer::Outcome;
use crate::{Error, ErrorKind, Result};

/// One operation in a backend's hands, one word wide. Completing consumes it; dropped without completing, it reports
/// [`ErrorKind::Abandoned`], so a forgetful backend cannot hang its caller.
///
/// After completing, the memory of the spans belongs to the caller again: a backend touches no span then.
#[must_use = "a job that is dropped fails as `Abandoned`"]
pub struct Job(NonNull<Frame>);

// SAFETY: the frame is `Sync`, and the job is the one right to complete it, wherever it goes.
unsafe impl Send for Job {}
// SAFETY: `&Job` gives `&Request` and plain facts only.
unsafe impl Sync for Job {}

/// Which job. No other has the same as long as the op's handle is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(usize);

impl JobId {
    /// Of the job of this frame.
    pub(crate) fn of(frame: &Frame) -> JobId {
        JobId(std::ptr::from_ref(frame).addr())
    }
}

/// Proof that an operation's buffers were written off.
#[derive(Debug)]
#[non_exhaustive]
pub struct Kept;

impl Job {
    /// The right to complete the frame.
    ///
    /// # Safety
    /// Made once per frame. The frame stays where it is until it is done; a counted frame's count includes the job's.
    pub(crate) unsafe fn new(frame: NonNull<Frame>) -> Job {
        Job(frame)
    }

    fn frame(&self) -> &Frame {
        // SAFETY: the frame lives at least until the job completes it.
        unsafe { self.0.as_ref() }
    }

    /// Which job it is; by this [`Backend::cancel`](crate::backend::Backend::cancel) asks for it.
    pub fn id(&self) -> JobId {
        JobId::of(self.frame())
    }

    /// What is to be done.
    pub fn request(&self) -> &Request {
        &self.frame().request
    }

    /// Whether the operation itself owns the memory behind its spans (it was started with owned buffers).
    pub fn owns_buffers(&self) -> bool {
        self.frame().owns_buffers
    }

    /// Ends the operation.
    pub fn complete(self, result: Result) {
        self.complete_with(result.map(|()| Outcome::default()));
    }

    /// Ends the operation with more to say than "done".
    pub fn complete_with(self, result: Result<Outcome>) {
        let frame = self.0;
        std::mem::forget(self);
        // SAFETY: the job was the one right to complete, and is gone.
        unsafe { Frame::complete(frame.as_ptr(), result) };
    }

    /// Ends an operation that was taken back.
    pub(crate) fn complete_cancelled(self) {
        let what = "the op was cancelled before any message was taken or sent";
        self.complete(Err(Error::new(ErrorKind::Aborted, what).rejected()));
    }

    /// Ends the operation while something that may never let go still holds its buffers: the caller gets the error and
    /// no buffer, and their memory is leaked. Only for operations that own their buffers; gives the job back otherwise.
    pub fn fail_keeping(self, error: Error) -> std::result::Result<Kept, Job> {
        if !self.owns_buffers() {
            return Err(self);
        }
        self.frame().kept.store(true, Ordering::Release);
        self.complete_with(Err(error));
        Ok(Kept)
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
