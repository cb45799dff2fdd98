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

use super::run::wait_aloud;
use super::scope::ScopeCount;
use super::{Group, observe};
use crate::backend::{Frame, Job, Origin, overdue};
use crate::buffer::{Buffers, Outcome};
use crate::panics::contain;
use crate::process::Process;
use crate::{Error, ErrorKind, OpError, Result};

/// The one allocation of a started call: frame and buffers, shared by the handle and the job.
#[repr(C)]
pub(crate) struct Counted<B> {
    frame: Frame,
    buffers: UnsafeCell<Option<B>>,
    group: Weak<Group>,
    /// The process in which it was started.
    owner: Process,
    scope: Option<Arc<ScopeCount>>,
    /// Keeps the target of the frame's `lane` alive.
    _lane: Option<Arc<Origin>>,
}

// SAFETY: only the handle uses `buffers`, and only when the frame is done; the job's release does so only as the last
// owner. `B` is `Send`.
unsafe impl<B: Send> Sync for Counted<B> {}

impl<B: Buffers> Counted<B> {
    pub(crate) fn new(frame: Frame, buffers: B, group: &Arc<Group>, scope: Option<Arc<ScopeCount>>) -> Arc<Self> {
        let (buffers, owner, group) = (UnsafeCell::new(Some(buffers)), group.owner, Arc::downgrade(group));
        Arc::new(Counted { frame, buffers, group, owner, scope, _lane: None })
    }

    /// The state, while it has no job and no handle.
    fn alone(this: &mut Arc<Self>) -> &mut Self {
        Arc::get_mut(this).expect("a state without job and handle has one owner")
    }

    /// The frame, while the state has no job.
    pub(crate) fn frame_mut(this: &mut Arc<Self>) -> &mut Frame {
        &mut Self::alone(this).frame
    }

    /// Lets the buffers write their spans. From now on they stay in place.
    pub(crate) fn describe(this: &mut Arc<Self>) -> Result {
        let Self { frame, buffers, .. } = Self::alone(this);
        buffers.get_mut().as_mut().map_or(Ok(()), |b| b.describe(&mut frame.request.spans))
    }

    /// Makes the job of this state, with its own reference.
    pub(crate) fn job(this: &mut Arc<Self>, lane: &Arc<Origin>) -> Job {
        let state = Self::alone(this);
        state.frame.lane = Some(NonNull::from(&**lane));
        state.frame.release = Some(Self::release);
        state._lane = Some(lane.clone());
        if let Some(scope) = &state.scope {
            scope.join(state.frame.request.deadline() + overdue(state.frame.request.timeout));
        }
        let frame = Arc::into_raw(this.clone()).cast::<Frame>().cast_mut();
        // SAFETY: an Arc's pointer is not null, and the frame comes first (repr(C)); the count taken here keeps it until
        // the job releases it.
        unsafe { Job::new(NonNull::new_unchecked(frame)) }
    }

    /// Ends the state without a job.
    pub(crate) fn refuse(this: &mut Arc<Self>, error: Error) {
        let frame = Self::frame_mut(this);
        // The frame has no reference to the lane yet.
        frame.lane = None;
        // SAFETY: there is no job, so the right to complete is here; there is no release.
        unsafe { Frame::set(frame, Err(error)) };
    }

    /// Gives up the job's reference. It does not unwind, and leaves the scope in any case.
    ///
    /// # Safety
    /// Called once, with the frame of `job`.
    pub(crate) unsafe fn release(frame: *const Frame) {
        // SAFETY: made by `Arc::into_raw` in `job`.
        let state = unsafe { Arc::from_raw(frame.cast::<Self>()) };
        let scope = state.scope.clone();
        if state.frame.kept.load(Ordering::Acquire) {
            // Something may still write to the buffers: never free them.
            std::mem::forget(state);
        } else {
            contain("the drop of a started operation's buffers", || drop(state));
        }
        // This comes after the buffers were dropped, so that a borrow does not end before its last use.
        if let Some(scope) = scope {
            scope.leave();
        }
    }
}

/// The part of a state that a handle needs, whatever the buffers' type.
pub(crate) trait Finish<R>: Send + Sync {
    fn frame(&self) -> &Frame;
    fn group(&self) -> &Weak<Group>;
    /// Whether an unfinished op will never be done, because this is a fork of the process that started it.
    fn is_foreign(&self) -> bool;
    /// The result. It is called once, when the frame is done or given up; in the latter case there are no buffers.
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
            // The threads that would complete it do not exist here. Its buffers stay allocated, since a device or a
            // peer may still use them.
            return Err(OpError { error: self.frame.described(self.owner.foreign("the operation")), buffer: None });
        }
        if !done {
            let what = "the backend did not let go of the buffers in time; they are lost: a defect of the backend";
            let error = self.frame.described(Error::new(ErrorKind::Internal, what));
            observe(&self.group, &Err(error.clone()));
            return Err(OpError { error, buffer: None });
        }
        // SAFETY: done, and `finish` is called once.
        let outcome = unsafe { self.frame.take_outcome() };
        let kept = self.frame.kept.load(Ordering::Acquire);
        observe(&self.group, &outcome);
        // SAFETY: done: the backend touches no span, and the one handle is here.
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

/// A handle, with any borrow.
pub(crate) struct Handle<'a, R> {
    pub(crate) state: Arc<dyn Finish<R> + 'a>,
    /// Whether a poll has returned the result.
    pub(crate) taken: bool,
}

impl<'a, R> Handle<'a, R> {
    pub(crate) fn new(state: Arc<dyn Finish<R> + 'a>) -> Self {
        Handle { state, taken: false }
    }

    /// Rejects a second use of a result that was taken. The group does not learn of this mistake of the caller.
    pub(crate) fn has_result(&self) -> Result {
        if !self.taken {
            return Ok(());
        }
        let what = "the result of this op was taken already, by the poll that was ready; a finished future is not to be \
                    polled or waited for again (in a `select!` loop, fuse it)";
        Err(self.state.frame().described(Error::invalid(what)))
    }

    /// Whether a wait would return.
    fn is_done(&self) -> bool {
        self.state.frame().is_done() || self.state.is_foreign()
    }

    fn wait_until(&self, until: Instant) -> bool {
        // No reference to the group is held while waiting, so that a waiting handle does not keep the group alive.
        let after = self.state.group().upgrade().and_then(|group| group.warn_after());
        let frame = self.state.frame();
        wait_aloud(frame, until, after, |after| {
            if let Some(group) = self.state.group().upgrade() {
                group.speak_of(frame, after);
            }
        })
    }

    /// The result of an op that is done or was given up.
    fn finish(&self, done: bool) -> Result<R, OpError<R>> {
        self.has_result().map_err(|error| OpError { error, buffer: None })?;
        self.state.finish(done)
    }

    fn wait_owned(self) -> Result<R, OpError<R>> {
        let request = &self.state.frame().request;
        let done = self.is_done() || self.wait_until(request.deadline() + overdue(request.timeout));
        self.finish(done)
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

/// The handle of a started call that owns its buffers. `R` is the result: the buffers, and what else the op returns.
///
/// It is also a `Future`, for any executor. It needs no timer, since the backend ends the op at its deadline. Once it
/// has been ready, the result is gone. Polling it again or waiting for it then returns an
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) to this caller only; the group and the other ranks do not
/// learn of it.
///
/// Dropping the handle, or a future around it such as a runtime's timeout, does not end the op. It goes on in the
/// background, its peers go on with it, and its buffers are freed when it is done. A receive still takes the next
/// matching message then, and that message is lost. [`cancel`](Work::cancel) gives a receive up and says whether it
/// took a message.
///
/// Wakers and the drops of buffers may run on a backend's thread. A panic in them ends there, see
/// [`panics`](crate::panics).
///
/// # Under an async runtime
///
/// It works without a runtime and with any; `examples/tokio.rs` shows tasks, `select!` and a timeout.
///
/// | question | answer |
/// | --- | --- |
/// | who calls the waker? | the thread that completes the op, after the backend has released the buffers: the backend's own thread, or the caller's if the op ended inside `start` |
/// | polled again, by another task? | the new waker takes the place of the old one; a handle may move between tasks and threads |
/// | dropped, by `select!` or a timeout? | nothing blocks and nothing is cancelled: the op goes on, and the ranks stay in step. The buffers are freed when the op is done. The next call reports a failure that comes after the drop |
/// | kept in spite of `select!` or a timeout? | poll the handle by reference: `timeout(patience, &mut work)` |
/// | cancelled? | a message by [`cancel`](Work::cancel), which says whether it was taken; a collective only by [`abort`](crate::ProcessGroup::abort), on all ranks |
/// | a deadline? | the op has its own: [`Call::timeout`](crate::Call::timeout) or the group's timeout. Its error names the missing ranks. A runtime's timeout only stops waiting |
/// | order? | the order of `start`, not of `await`. Start all collectives from one task: if each is started by a task of its own, their order is a race that ends in a [`Mismatch`](crate::ErrorKind::Mismatch) |
/// | borrowed buffers? | [`scope`](crate::ProcessGroup::scope) blocks its thread; in an `async fn`, use calls that own their buffers |
/// | what blocks? | `run` and the methods of the ops, building, `split`, `shutdown`, the store, and the drop of a group's last handle: use `spawn_blocking` for them |
#[must_use = "dropping the handle lets the op finish by itself; its result and its buffers are lost"]
pub struct Work<R>(pub(crate) Handle<'static, R>);

impl<R> Work<R> {
    /// Waits until the op is done. It returns by the op's deadline or a little later.
    ///
    /// # Errors
    /// The error of the op, with the buffers.
    pub fn wait(self) -> Result<R, OpError<R>> {
        self.0.wait_owned()
    }

    /// Waits at most for `patience`. If the op is not done by then, it returns the handle; this does not fail the op.
    pub fn wait_timeout(self, patience: Duration) -> Result<Result<R, OpError<R>>, Self> {
        self.0.wait_timeout(patience).map_err(Work)
    }

    /// Whether the op is done.
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

/// The handle of a call that was started in a [`scope`](crate::ProcessGroup::scope), possibly on borrowed buffers. It
/// is like [`Work`], except that the scope waits for the op.
#[must_use = "dropping the handle loses the op's result; the scope waits for the op all the same"]
pub struct ScopedWork<'scope, R>(pub(crate) Handle<'scope, R>);

impl<R> ScopedWork<'_, R> {
    /// Waits until the op is done.
    ///
    /// # Errors
    /// The error of the op.
    pub fn wait(self) -> Result<R> {
        self.0.wait_borrowed().map_err(Error::from)
    }

    /// Waits at most for `patience`. If the op is not done by then, it returns the handle.
    pub fn wait_timeout(self, patience: Duration) -> Result<Result<R>, Self> {
        self.0.wait_timeout(patience).map(|result| result.map_err(Error::from)).map_err(ScopedWork)
    }

    /// Whether the op is done.
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
