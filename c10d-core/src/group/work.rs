//! Handles of calls that were started.
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

/// The one allocation of a started call: frame and buffers, shared by handle and job.
#[repr(C)]
pub(crate) struct Counted<B> {
    frame: Frame,
    buffers: UnsafeCell<Option<B>>,
    group: Weak<Group>,
    /// Where it was started, and will be over.
    owner: Process,
    scope: Option<Arc<ScopeCount>>,
    /// Keeps what the frame's `lane` points to.
    _lane: Option<Arc<Origin>>,
}

// SAFETY: `buffers` is touched by the handle alone, and only when the frame is done; by the job's release only as the
// last owner. `B` is `Send`.
unsafe impl<B: Send> Sync for Counted<B> {}

impl<B: Buffers> Counted<B> {
    pub(crate) fn new(frame: Frame, buffers: B, group: &Arc<Group>, scope: Option<Arc<ScopeCount>>) -> Arc<Self> {
        let (buffers, owner, group) = (UnsafeCell::new(Some(buffers)), group.owner, Arc::downgrade(group));
        Arc::new(Counted { frame, buffers, group, owner, scope, _lane: None })
    }

    /// The state, as long as it has no job and no handle yet.
    fn alone(this: &mut Arc<Self>) -> &mut Self {
        Arc::get_mut(this).expect("a state without job and handle has one owner")
    }

    /// The frame, as long as the state has no job.
    pub(crate) fn frame_mut(this: &mut Arc<Self>) -> &mut Frame {
        &mut Self::alone(this).frame
    }

    /// Has the buffers write down their spans; they stay where they are from now on.
    pub(crate) fn describe(this: &mut Arc<Self>) -> Result {
        let Self { frame, buffers, .. } = Self::alone(this);
        buffers.get_mut().as_mut().map_or(Ok(()), |b| b.describe(&mut frame.request.spans))
    }

    /// The job of this state, with a count of its own.
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
        // The lane is not counted yet.
        frame.lane = None;
        // SAFETY: there is no job, so the right to complete is here; there is no release.
        unsafe { Frame::set(frame, Err(error)) };
    }

    /// Gives up the job's count. Does not unwind, and leaves the scope in any case.
    ///
    /// # Safety
    /// Called once, with the frame that `job` handed out.
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
        // After the buffers' owner is gone, so that a borrow does not end before its last use.
        if let Some(scope) = scope {
            scope.leave();
        }
    }
}

/// What a handle needs of a state, whatever the buffers.
pub(crate) trait Finish<R>: Send + Sync {
    fn frame(&self) -> &Frame;
    fn group(&self) -> &Weak<Group>;
    /// Whether the op, which is not over, will never be: this is a fork of the process that started it.
    fn is_foreign(&self) -> bool;
    /// The result; called once, when the frame is done (or given up: then there are no buffers).
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
            // What would complete it is not here. Its buffers stay where they are: a device or a peer may have a part.
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

/// A handle, whatever it may borrow.
pub(crate) struct Handle<'a, R> {
    pub(crate) state: Arc<dyn Finish<R> + 'a>,
    /// A poll has given the result away.
    pub(crate) taken: bool,
}

impl<'a, R> Handle<'a, R> {
    pub(crate) fn new(state: Arc<dyn Finish<R> + 'a>) -> Self {
        Handle { state, taken: false }
    }

    /// Refuses a second use of a result that was taken. A mistake of the caller's, of which the group knows nothing.
    pub(crate) fn has_result(&self) -> Result {
        if !self.taken {
            return Ok(());
        }
        let what = "the result of this op was taken already, by the poll that was ready; a finished future is not to be \
                    polled or waited for again (in a `select!` loop, fuse it)";
        Err(self.state.frame().described(Error::invalid(what)))
    }

    /// Whether waiting has an end.
    fn is_done(&self) -> bool {
        self.state.frame().is_done() || self.state.is_foreign()
    }

    fn wait_until(&self, until: Instant) -> bool {
        // The group is not held while waiting: its end is not this handle's matter.
        let after = self.state.group().upgrade().and_then(|group| group.warn_after());
        let frame = self.state.frame();
        wait_aloud(frame, until, after, |after| {
            if let Some(group) = self.state.group().upgrade() {
                group.speak_of(frame, after);
            }
        })
    }

    /// The result of an op that is done, or was given up.
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

/// A call that was started and owns its buffers. `R` is what comes back.
///
/// Also a `Future`, for any executor. It has no clock of its own: the backend ends the op at its deadline. When it has
/// been ready, the result is gone: to poll it again, or to wait for it, is an
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) of that caller alone, of which the group and the other ranks know
/// nothing.
///
/// Dropping the handle, or a future around it such as a runtime's timeout, does not end the op: it goes on by itself, its
/// peers go on with it, and its buffers are freed when it is over. A receive then still takes the next message that is
/// meant for it, and that message is lost. [`cancel`](Work::cancel) gives a receive up and says whether it took one.
///
/// Wakers, and the drops of buffers, may run on a backend's thread. A panic of theirs ends there, see
/// [`panics`](crate::panics).
///
/// # Under an async runtime
///
/// No runtime is needed, and none is preferred; `examples/tokio.rs` shows tasks, `select!` and a timeout.
///
/// | question | answer |
/// | --- | --- |
/// | who calls the waker? | the thread that completes the op, when the backend has let go of the buffers: the backend's own, or the caller's if the op ended inside `start` |
/// | polled again, by another task? | the new waker takes the place of the old one; a handle may move between tasks and threads |
/// | dropped, by `select!` or a timeout? | nothing blocks and nothing is cancelled: the op goes on, and the ranks stay in step. Buffers are freed by whoever comes last. A failure after the drop is told at the next call |
/// | kept in spite of `select!` or a timeout? | poll the handle by reference: `timeout(patience, &mut work)` |
/// | cancelled? | a message by [`cancel`](Work::cancel), which says whether one was taken; a collective by [`abort`](crate::ProcessGroup::abort) alone, for all ranks |
/// | a deadline? | the op's own, [`Call::timeout`](crate::Call::timeout) or the group's, and its error names who is missing; a runtime's timeout only stops looking |
/// | order? | that of `start`, not of `await`. Start collectives from one task: one task for each, which starts it, is a race that ends in a [`Mismatch`](crate::ErrorKind::Mismatch) |
/// | borrowed buffers? | [`scope`](crate::ProcessGroup::scope) blocks its thread; in an `async fn` let calls own their buffers |
/// | what blocks? | `run` and the methods for it, building, `split`, `shutdown`, the store: `spawn_blocking`. So does the drop of the last handle of a group |
#[must_use = "dropping the handle lets the op finish by itself; its result and its buffers are lost"]
pub struct Work<R>(pub(crate) Handle<'static, R>);

impl<R> Work<R> {
    /// Waits until the op is over; returns by its deadline, or a little after.
    ///
    /// # Errors
    /// What failed the op, with the buffers.
    pub fn wait(self) -> Result<R, OpError<R>> {
        self.0.wait_owned()
    }

    /// Waits no longer than `patience`; gives the handle back if the op is not over by then. A look, not a failure.
    pub fn wait_timeout(self, patience: Duration) -> Result<Result<R, OpError<R>>, Self> {
        self.0.wait_timeout(patience).map_err(Work)
    }

    /// Whether the op is over.
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

/// A call that was started in a [`scope`](crate::ProcessGroup::scope), possibly on borrowed buffers. As a future, and when
/// it is dropped, it is as [`Work`], except that the scope waits for the op.
#[must_use = "dropping the handle loses the op's result; the scope waits for the op all the same"]
pub struct ScopedWork<'scope, R>(pub(crate) Handle<'scope, R>);

impl<R> ScopedWork<'_, R> {
    /// Waits until the op is over.
    ///
    /// # Errors
    /// What failed the op.
    pub fn wait(self) -> Result<R> {
        self.0.wait_borrowed().map_err(Error::from)
    }

    /// Waits no longer than `patience`; gives the handle back if the op is not over by then.
    pub fn wait_timeout(self, patience: Duration) -> Result<Result<R>, Self> {
        self.0.wait_timeout(patience).map(|result| result.map_err(Error::from)).map_err(ScopedWork)
    }

    /// Whether the op is over.
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
