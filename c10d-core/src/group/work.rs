//! Handles of started calls.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::run::{help, wait_and_report};
use super::scope::ScopeCount;
use super::{Group, observe};
use crate::backend::{Frame, Job, Origin, overdue};
use crate::buffer::{Buffers, Outcome};
use crate::panics::contain;
use crate::process::Process;
use crate::{Error, ErrorKind, OpError, Result};

/// The allocation of a started call. The handle and the job share it.
#[repr(C)]
pub(crate) struct Counted<B> {
    frame: Frame,
    buffers: UnsafeCell<Option<B>>,
    group: Weak<Group>,
    /// The process in which the call was started.
    owner: Process,
    scope: Option<Arc<ScopeCount>>,
    /// The value to which the frame's `lane` points.
    _lane: Option<Arc<Origin>>,
}

// SAFETY: `buffers` is used only by the handle, after the frame is done, or by the job's release, if the job is the
// last owner. `B` is `Send`.
unsafe impl<B: Send> Sync for Counted<B> {}

impl<B: Buffers> Counted<B> {
    pub(crate) fn new(frame: Frame, buffers: B, group: &Arc<Group>, scope: Option<Arc<ScopeCount>>) -> Arc<Self> {
        let (buffers, owner, group) = (UnsafeCell::new(Some(buffers)), group.owner, Arc::downgrade(group));
        Arc::new(Counted { frame, buffers, group, owner, scope, _lane: None })
    }

    /// Returns a mutable reference to the value. There must be no job and no handle yet.
    fn alone(this: &mut Arc<Self>) -> &mut Self {
        Arc::get_mut(this).expect("without job and handle, the value has one owner")
    }

    /// Returns the frame. There must be no job and no handle yet.
    pub(crate) fn frame_mut(this: &mut Arc<Self>) -> &mut Frame {
        &mut Self::alone(this).frame
    }

    /// Writes the spans of the buffers into the request. From now on the buffers must not move.
    pub(crate) fn describe(this: &mut Arc<Self>) -> Result {
        let Self { frame, buffers, .. } = Self::alone(this);
        buffers.get_mut().as_mut().map_or(Ok(()), |b| b.describe(&mut frame.request.spans))
    }

    /// Makes the job of this call. The job has its own reference to the value.
    pub(crate) fn job(this: &mut Arc<Self>, lane: &Arc<Origin>) -> Job {
        let state = Self::alone(this);
        state.frame.lane = Some(NonNull::from(&**lane));
        state.frame.release = Some(Self::release);
        state._lane = Some(lane.clone());
        if let Some(scope) = &state.scope {
            scope.join(state.frame.request.deadline() + overdue(state.frame.request.timeout));
        }
        let frame = Arc::into_raw(this.clone()).cast::<Frame>().cast_mut();
        // SAFETY: the pointer of an `Arc` is not null, and the frame is the first field (`repr(C)`). The job owns the
        // reference that was cloned here, until `release` drops it.
        unsafe { Job::new(NonNull::new_unchecked(frame)) }
    }

    /// Ends the call with an error, without a job.
    pub(crate) fn refuse(this: &mut Arc<Self>, error: Error) {
        let frame = Self::frame_mut(this);
        // The lane is not kept alive yet, so the frame must not point to it.
        frame.lane = None;
        // SAFETY: there is no job, so no other code completes the frame; `release` is not set yet.
        unsafe { Frame::set(frame, Err(error)) };
    }

    /// Drops the job's reference, and removes the operation from its scope. Does not unwind.
    ///
    /// # Safety
    /// Called once, with the frame of `job`.
    pub(crate) unsafe fn release(frame: *const Frame) {
        // SAFETY: the pointer was made by `Arc::into_raw` in `job`.
        let state = unsafe { Arc::from_raw(frame.cast::<Self>()) };
        let scope = state.scope.clone();
        if state.frame.kept.load(Ordering::Acquire) {
            // A device or library may still write to the buffers, so they are leaked.
            std::mem::forget(state);
        } else {
            contain("the drop of a started operation's buffers", || drop(state));
        }
        // The scope may end only after the buffers were dropped, since they may be borrowed from outside it.
        if let Some(scope) = scope {
            scope.leave();
        }
    }
}

/// The functions of a [`Counted`] that a handle needs, without the type of the buffers.
pub(crate) trait Finish<R>: Send + Sync {
    fn frame(&self) -> &Frame;
    fn group(&self) -> &Weak<Group>;
    /// Returns whether this process is a forked child of the process that started the op. In the child, an op that is
    /// not done never ends.
    fn is_foreign(&self) -> bool;
    /// Returns the result. Called once: with `done` = `true` when the frame is done, or with `false` when the caller
    /// stops waiting. With `false`, the result has no buffers.
    fn finish(&self, done: bool) -> Result<R, OpError<R>>;
}

impl<B: Buffers> Finish<B::Back> for Counted<B> {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn group(&self) -> &Weak<Group> {
        &self.group
    }

    fn is_foreign(&self) -> bool {
        !self.owner.is_current()
    }

    fn finish(&self, done: bool) -> Result<B::Back, OpError<B::Back>> {
        if self.is_foreign() && !self.frame.is_done() {
            // No thread of this process completes the op. The buffers stay allocated: a device or a peer may still use
            // them.
            return Err(OpError { error: self.frame.described(self.owner.foreign("the operation")), buffer: None });
        }
        if !done {
            let what = "the backend did not release the buffers in time, so they are leaked; this is a bug in the \
                backend";
            let error = self.frame.described(Error::new(ErrorKind::Internal, what));
            observe(&self.group, &Err(error.clone()));
            return Err(OpError { error, buffer: None });
        }
        // SAFETY: the frame is done, and `finish` is called once.
        let outcome = unsafe { self.frame.take_outcome() };
        let kept = self.frame.kept.load(Ordering::Acquire);
        observe(&self.group, &outcome);
        // SAFETY: the frame is done, so the backend does not use the spans. Only the handle, which calls `finish`, uses
        // `buffers`.
        let buffers = unsafe { (*self.buffers.get()).take_if(|_| !kept) };
        match (outcome, buffers) {
            (Ok(outcome), Some(buffers)) => Ok(buffers.back(outcome)),
            (Ok(_), None) => {
                Err(OpError { error: Error::new(ErrorKind::Internal, "the buffers were taken twice"), buffer: None })
            }
            (Err(error), buffers) => Err(OpError { error, buffer: buffers.map(|b| b.back(Outcome::NONE)) }),
        }
    }
}

/// A handle of a started call. `'a` is the lifetime of borrows in its buffers.
pub(crate) struct Handle<'a, R> {
    pub(crate) state: Arc<dyn Finish<R> + 'a>,
    /// Whether a poll has returned the result.
    pub(crate) taken: bool,
}

impl<'a, R> Handle<'a, R> {
    pub(crate) fn new(state: Arc<dyn Finish<R> + 'a>) -> Self {
        Handle { state, taken: false }
    }

    /// Returns an error if the result was taken before. This mistake does not fail the group.
    pub(crate) fn has_result(&self) -> Result {
        if !self.taken {
            return Ok(());
        }
        let what = "the result of this op was taken already, by the poll that returned it; do not poll or wait for a \
                    finished future again (in a `select!` loop, fuse it)";
        Err(self.state.frame().described(Error::invalid(what)))
    }

    /// Returns whether a wait would return at once.
    fn is_done(&self) -> bool {
        self.state.frame().is_done() || self.state.is_foreign()
    }

    fn wait_until(&self, until: Instant) -> bool {
        // A waiting handle must not keep the group alive.
        let after = self.state.group().upgrade().and_then(|group| group.warn_after());
        let frame = self.state.frame();
        wait_and_report(frame, until, after, |after| {
            if let Some(group) = self.state.group().upgrade() {
                group.report_wait(frame, after);
            }
        })
    }

    /// Returns the result of an op that is done (`done` is true) or for which the caller stopped waiting (`done` is
    /// false).
    fn finish(&self, done: bool) -> Result<R, OpError<R>> {
        self.has_result().map_err(|error| OpError { error, buffer: None })?;
        self.state.finish(done)
    }

    fn wait_owned(self) -> Result<R, OpError<R>> {
        let request = &self.state.frame().request;
        let limit = request.deadline() + overdue(request.timeout);
        let done = self.is_done() || self.help(limit) || self.wait_until(limit);
        self.finish(done)
    }

    /// Lets the backend run the op, and the ops before it, on this thread, if the backend can. Returns whether the op
    /// is done.
    fn help(&self, limit: Instant) -> bool {
        let frame = self.state.frame();
        // Helping keeps the backend alive, but not the group.
        let backend = self.state.group().upgrade().and_then(|group| group.backend_of(frame).cloned());
        backend.is_some_and(|backend| help(&*backend, frame, limit))
    }

    fn wait_borrowed(self) -> Result<R, OpError<R>> {
        if !self.is_done() {
            match self.state.group().upgrade() {
                Some(group) => group.wait_borrowed(self.state.frame()),
                None => while !self.wait_until(Instant::now() + Duration::from_secs(1)) {},
            }
        }
        self.finish(true)
    }

    fn wait_timeout(self, patience: Duration) -> Result<Result<R, OpError<R>>, Self> {
        let until = crate::store::deadline_after(patience);
        if self.is_done() || self.wait_until(until) { Ok(self.finish(true)) } else { Err(self) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<R, OpError<R>>> {
        if !self.state.is_foreign() && !self.state.frame().poll(cx.waker()) {
            return Poll::Pending;
        }
        let result = self.finish(true);
        self.taken = true;
        Poll::Ready(result)
    }
}

/// The handle of a started call that owns its buffers. `R` is the result: the buffers, and the other values that the op
/// returns.
///
/// The handle is also a `Future`, for any executor. The executor needs no timer, since the backend ends the op at the
/// op's deadline. After a poll has returned the result, another poll or wait returns an
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), which does not affect the group.
///
/// If the handle is dropped, the op does not end. The op continues in the background, and its buffers are freed when it
/// is done. A receive still takes the next matching message, and this message is lost. [`cancel`](Work::cancel) ends a
/// receive, and returns whether it took a message.
///
/// Wakers and the drops of buffers may run on a backend's thread. A panic in them is caught; see
/// [`panics`](crate::panics).
///
/// # Under an async runtime
///
/// The handle works without a runtime, and with every runtime. `examples/tokio.rs` shows tasks, `select!` and a
/// timeout.
///
/// | question | answer |
/// | --- | --- |
/// | Which thread calls the waker? | The thread that completes the op, after the backend has released the buffers. This is the backend's own thread, the caller's thread if the op ended inside `start`, or a thread that waits for another op of the group. |
/// | May another task poll the handle? | Yes. The new waker replaces the old one. A handle may move between tasks and threads. |
/// | What if `select!` or a timeout drops the handle? | The drop does not block, and the op is not cancelled. The buffers are freed when the op is done. If the op fails after the drop, the next call on the group may return the error. |
/// | How can the handle be kept? | Poll it by reference: `timeout(patience, &mut work)`. |
/// | How is an op cancelled? | [`cancel`](Work::cancel) cancels a message. Its result says whether the op took (or sent) the message. A collective is ended only by [`abort`](crate::ProcessGroup::abort), on all ranks. |
/// | Does the op have a deadline? | Yes: [`Call::timeout`](crate::Call::timeout) or the group's timeout. The error at the deadline names the missing ranks. A timeout of the runtime only stops waiting. |
/// | In which order do collectives run? | In the order of `start`, not of `await`. Start all collectives from one task: if several tasks start them, their order may differ between ranks, which is a [`Mismatch`](crate::ErrorKind::Mismatch). |
/// | May buffers be borrowed? | Only in a [`scope`](crate::ProcessGroup::scope), which blocks its thread. In an `async fn`, use calls that own their buffers. |
/// | Which functions block? | `run` and the methods of the ops, `wait`, `scope`, `build`, the methods that make sub-groups, `shutdown`, the store's methods, and the drop of a group's last handle. Use `spawn_blocking` for them. |
#[must_use = "if the handle is dropped, the op still runs, but its result and its buffers are lost"]
pub struct Work<R>(pub(crate) Handle<'static, R>);

impl<R> Work<R> {
    /// Waits until the op is done, at most until a little after the op's deadline.
    ///
    /// # Errors
    /// The error of the op, with the buffers.
    pub fn wait(self) -> Result<R, OpError<R>> {
        self.0.wait_owned()
    }

    /// Waits at most for `patience`. If the op is done by then, returns `Ok` with the result of the op. Otherwise
    /// returns `Err` with the handle, and the op continues.
    pub fn wait_timeout(self, patience: Duration) -> Result<Result<R, OpError<R>>, Self> {
        self.0.wait_timeout(patience).map_err(Work)
    }

    /// Returns whether the op is done.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }
}

impl<R> Future for Work<R> {
    type Output = Result<R, OpError<R>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// The handle of a call that was started in a [`scope`](crate::ProcessGroup::scope), possibly on borrowed buffers.
/// Unlike with [`Work`], the scope waits for the op.
#[must_use = "if the handle is dropped, the op's result is lost; the scope still waits for the op"]
pub struct ScopedWork<'scope, R>(pub(crate) Handle<'scope, R>);

impl<R> ScopedWork<'_, R> {
    /// Waits until the op is done.
    ///
    /// # Errors
    /// The error of the op.
    pub fn wait(self) -> Result<R> {
        self.0.wait_borrowed().map_err(Error::from)
    }

    /// Waits at most for `patience`. If the op is done by then, returns `Ok` with the result of the op. Otherwise
    /// returns `Err` with the handle, and the op continues.
    pub fn wait_timeout(self, patience: Duration) -> Result<Result<R>, Self> {
        self.0.wait_timeout(patience).map(|result| result.map_err(Error::from)).map_err(ScopedWork)
    }

    /// Returns whether the op is done.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }
}

impl<R> Future for ScopedWork<'_, R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_err(Error::from)
    }
}

impl<R> std::fmt::Debug for Work<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let request = &self.0.state.frame().request;
        write!(f, "Work({} seq {}, {})", request.op, request.seq, if self.is_done() { "done" } else { "in flight" })
    }
}
