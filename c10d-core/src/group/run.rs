//! How a call is run or started: from the group to its kernel.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::aim::Aim;
use super::lane::Turn;
use super::scope::{Scope, ScopeCount};
use super::work::{Counted, Handle, Work};
use super::{Group, ProcessGroup};
use crate::backend::{Backend, Caller, Frame, Job, Request, overdue};
use crate::buffer::Outcome;
use crate::buffer::{Buffers, RawSpans};
use crate::call::Call;
use crate::catalog::OpKind;
use crate::error::complain;
use crate::options::Params;
use crate::{Error, ErrorKind, OpError, Result, Status, waiting};

impl ProcessGroup {
    /// Runs a call and waits for it.
    ///
    /// Returns the buffers and whatever else the op returns, such as the sender's rank.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). The buffers are in [`OpError::buffer`]. In a function that returns
    /// an [`Error`], `?` drops them.
    ///
    /// # Example
    /// ```no_run
    /// # use c10d_core::{ProcessGroup, ReduceOp, op};
    /// # use std::time::Duration;
    /// # fn f(pg: ProcessGroup) -> c10d_core::Result<()> {
    /// let mut x = vec![1f32; 1024];
    /// pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(Duration::from_secs(5)))?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn run<B: Buffers>(&self, call: Call<B>) -> Result<B::Back, OpError<B::Back>> {
        let Call { op, params, timeout, error, mut buffers } = call;
        let mut request = self.0.request(op, Caller::Waits, params, timeout);
        let described = match error {
            None => buffers.describe(&mut request.spans),
            Some(e) => Err(e),
        };
        let result = match self.0.run(&mut request, described) {
            Ran::Done(result) => result,
            Ran::NeedsJob(aim, turn) => self.0.run_job(request, aim, turn),
        };
        match result {
            Ok(outcome) => Ok(buffers.back(outcome)),
            Err(error) => Err(OpError { error, buffer: Some(buffers.back(Outcome::NONE)) }),
        }
    }

    /// Starts a call that owns its buffers, and returns at once.
    ///
    /// [`Work::wait`] returns the buffers, also on errors. If the handle is dropped, the op still runs in the
    /// background, and its buffers are freed when it is done. If the handle is leaked, the buffers are leaked, too. A
    /// receive whose handle was dropped still takes a message; [`Work::cancel`] prevents that.
    ///
    /// ```no_run
    /// # use c10d_core::{ProcessGroup, ReduceOp, op};
    /// # fn f(pg: ProcessGroup, gradient: Vec<f32>) -> c10d_core::Result<()> {
    /// let work = pg.start(op::all_reduce(gradient, ReduceOp::Avg));
    /// // .. something else ..
    /// let gradient = work.wait()?;
    /// # Ok(()) }
    /// ```
    pub fn start<B>(&self, call: Call<B>) -> Work<B::Back>
    where
        // The compiler shows the next line if a call is started on a borrowed buffer.
        B: Buffers + 'static, // a started call owns its buffers: give it a `Vec`, or start it in `ProcessGroup::scope`
    {
        Work(self.0.start(call, None))
    }

    /// Starts a call on spans instead of buffers.
    ///
    /// # Safety
    /// Until the work is done, the memory of the spans stays allocated, no other code uses the memory of outputs, and
    /// no other code writes to the memory of inputs. The work is done when `is_done` of the handle returns `true` or
    /// `wait` has returned. If `wait` returned an error without a `buffer`, the backend has not released the memory,
    /// which must never be freed or used again. Dropping the handle does not end the work.
    pub unsafe fn submit_raw(
        &self,
        op: OpKind,
        params: Params,
        timeout: Option<Duration>,
        spans: RawSpans,
    ) -> Work<Outcome> {
        let call = Call { op, params, timeout, error: None, buffers: spans };
        Work(self.0.start_borrowing(call))
    }

    /// Opens a scope in which calls may be started on borrowed buffers. `scope` returns when all these calls are done,
    /// even if their handles were dropped.
    ///
    /// ```no_run
    /// # use c10d_core::{ProcessGroup, ReduceOp, op};
    /// # fn f(pg: ProcessGroup) -> c10d_core::Result<()> {
    /// let (mut a, mut b) = (vec![1f32; 8], vec![2f32; 8]);
    /// pg.scope(|s| {
    ///     let first = s.start(op::all_reduce(&mut a, ReduceOp::Sum));
    ///     let second = s.start(op::all_reduce(&mut b, ReduceOp::Sum));
    ///     first.wait()?;
    ///     second.wait().map(drop)
    /// })?;
    /// # Ok(()) }
    /// ```
    pub fn scope<'env, F, R>(&self, body: F) -> R
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
    {
        Scope::enter(self, body)
    }
}

/// What [`Group::run`] did with a call.
enum Ran<'a> {
    /// The call has ended.
    Done(Result<Outcome>),
    /// The call was prepared. It needs a job.
    NeedsJob(Aim<'a>, Option<Turn<'a>>),
}

/// A call that is ready for its kernel.
pub(super) struct Ready<'a> {
    pub(super) aim: Aim<'a>,
    turn: Option<Turn<'a>>,
    pub(super) job: Job,
}

/// A guard against a panic of a kernel. If the kernel panics, the guard is dropped. The guard then fails the group, and
/// if the job's frame is on the stack, the guard waits until the job is done. If the kernel returns, the guard is
/// forgotten.
pub(super) struct OnPanic<'a> {
    pub(super) group: &'a Group,
    pub(super) frame: Option<&'a Frame>,
}

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        let error = Error::new(
            ErrorKind::Internal,
            "the backend panicked when it was given an operation; this is a bug in the backend",
        );
        self.group.fail(&self.group.described(error));
        if let Some(frame) = self.frame {
            self.group.wait_borrowed(frame);
        }
    }
}

impl Group {
    #[inline]
    fn request(&self, op: OpKind, caller: Caller, params: Params, timeout: Option<Duration>) -> Request {
        Request::new(op, caller, params, timeout.unwrap_or(self.timeout))
    }

    /// Prepares a call, and runs it on this thread if the backend can do that.
    fn run(&self, request: &mut Request, described: Result) -> Ran<'_> {
        let (aim, turn) = match self.prepare(request, described) {
            Ok(prepared) => prepared,
            Err(e) => return Ran::Done(Err(self.refused(request.op, e))),
        };
        if aim.forwards {
            let on_panic = OnPanic { group: self, frame: None };
            let result = aim.lane.backend.run(request);
            std::mem::forget(on_panic);
            match result {
                Some(Ok(())) => {
                    drop(turn);
                    // SAFETY: the backend does not use the spans after `run` returned, and the caller gets the buffers
                    // back only after this.
                    unsafe { request.normalise() };
                    // The source is the sender of a message. A receive that runs without a job always names the sender.
                    // Other ops do not use the source.
                    return Ran::Done(Ok(Outcome { source: request.params.peer, payload: None }));
                }
                Some(Err(error)) => {
                    drop(turn);
                    // SAFETY: as above.
                    unsafe { request.normalise() };
                    let failed = Err(request.described(Some(&aim.lane.info), error));
                    self.observe(&failed);
                    return Ran::Done(failed);
                }
                None => {}
            }
        }
        Ran::NeedsJob(aim, turn)
    }

    /// Runs a prepared call as a job whose frame is on this thread's stack.
    fn run_job(&self, request: Request, aim: Aim<'_>, turn: Option<Turn<'_>>) -> Result<Outcome> {
        let mut frame = Frame::new(request);
        frame.lane = Some(NonNull::from(&*aim.lane.info));
        let frame = &frame;
        let on_panic = OnPanic { group: self, frame: Some(frame) };
        // SAFETY: the frame is not moved or dropped before it is done: this function waits until it is done. If the
        // kernel panics, `on_panic` waits.
        let job = unsafe { Job::new(NonNull::from(frame)) };
        (aim.kernel)(aim.lane.context(self.size), job);
        std::mem::forget(on_panic);
        drop(turn);
        if !frame.is_done() {
            self.wait_borrowed(frame);
        }
        // SAFETY: the frame is done, and no other thread has access to it.
        let outcome = unsafe { frame.take_outcome() };
        self.observe(&outcome);
        outcome
    }

    /// Prepares a request for its kernel: finds the route, validates the call, waits for the call's turn in the lane,
    /// and gives the call a sequence number. `described` is the result of describing the buffers.
    #[inline]
    fn prepare<'a>(&'a self, request: &mut Request, described: Result) -> Result<(Aim<'a>, Option<Turn<'a>>)> {
        described?;
        let aim = self.aim(request)?;
        if tracing::enabled!(target: "c10d", tracing::Level::TRACE) {
            let (op, caller) = (request.op, request.caller);
            tracing::trace!(target: "c10d", group = %self.name, rank = self.rank, %op, ?caller);
        }
        if request.caller == Caller::Continues {
            // The first call of `deadline` starts the timeout. So the timeout of a started call begins now, and not at
            // the first wait for its handle.
            request.deadline();
        }
        let turn = aim.lane.take_turn(request)?;
        Ok((aim, turn))
    }

    /// Starts a call. Its buffers are in the allocation that the handle and the job share.
    pub(crate) fn start<'a, B: Buffers + 'a>(
        self: &Arc<Self>,
        call: Call<B>,
        scope: Option<Arc<ScopeCount>>,
    ) -> Handle<'a, B::Back> {
        let owns = scope.is_none();
        self.start_counted(call, scope, owns)
    }

    fn start_borrowing(self: &Arc<Self>, call: Call<RawSpans>) -> Handle<'static, Outcome> {
        self.start_counted(call, None, false)
    }

    fn start_counted<'a, B: Buffers + 'a>(
        self: &Arc<Self>,
        call: Call<B>,
        scope: Option<Arc<ScopeCount>>,
        owns: bool,
    ) -> Handle<'a, B::Back> {
        let (handle, ready) = self.ready(call, scope, owns);
        if let Some(Ready { aim, turn, job }) = ready {
            let on_panic = OnPanic { group: self, frame: None };
            (aim.kernel)(aim.lane.context(self.size), job);
            std::mem::forget(on_panic);
            drop(turn);
        }
        handle
    }

    /// Prepares a started call for its kernel. If the call is rejected, only a handle is returned, which has the error.
    pub(super) fn ready<'a, B: Buffers + 'a>(
        self: &Arc<Self>,
        call: Call<B>,
        scope: Option<Arc<ScopeCount>>,
        owns: bool,
    ) -> (Handle<'a, B::Back>, Option<Ready<'_>>) {
        let Call { op, params, timeout, error, buffers } = call;
        let mut frame = Frame::new(self.request(op, Caller::Continues, params, timeout));
        frame.owns_buffers = owns;
        let mut state = Counted::new(frame, buffers, self, scope);
        // The buffers are described at their final address, since a move of the buffers would invalidate the spans.
        let described = match error {
            None => Counted::describe(&mut state),
            Some(e) => Err(e),
        };
        match self.prepare(&mut Counted::frame_mut(&mut state).request, described) {
            Ok((aim, turn)) => {
                let job = Counted::job(&mut state, &aim.lane.info);
                (Handle::new(state), Some(Ready { aim, turn, job }))
            }
            Err(e) => {
                Counted::refuse(&mut state, self.refused(op, e));
                (Handle::new(state), None)
            }
        }
    }

    /// Fails the group if the outcome is an error with status `Failed`. The thread that takes the outcome calls this
    /// function; see [`Group::fail`].
    #[inline]
    pub(crate) fn observe(&self, outcome: &Result<Outcome>) {
        if let Err(error) = outcome
            && error.status() == Status::Failed
        {
            self.fail(error);
        }
    }

    /// Reports that an op has waited for the time `after`, and for which ranks it waits.
    #[cold]
    pub(crate) fn report_wait(&self, frame: &Frame, after: Duration) {
        let lane = self.lanes.iter().find(|lane| frame.lane == Some(NonNull::from(&*lane.info)));
        let (request, backend) = (&frame.request, lane.map_or("", |lane| lane.info.backend));
        let left = request.deadline().saturating_duration_since(Instant::now()).as_secs_f64();
        let (op, after) = (request.op, after.as_secs_f64());
        let number = if op.is_p2p() { ("tag", u64::from(request.params.tag)) } else { ("seq", request.seq) };
        let text = format!(
            "has waited {after:.1} s in {op} {} {} on backend {backend}, and times out in {left:.1} s",
            number.0, number.1
        );
        let whom = lane.and_then(|lane| lane.backend.waits());
        waiting::say(&self.name, self.rank, move || match whom.map(|whom| whom()).unwrap_or_default() {
            whom if whom.is_empty() => text,
            whom => format!("{text}: {whom}"),
        });
    }

    /// Returns the time after which a long wait is reported, or `None` if waits are never reported.
    pub(crate) fn warn_after(&self) -> Option<Duration> {
        self.warn_after
    }

    /// Waits until a job with borrowed memory is done, even after its deadline, since the caller may free the memory as
    /// soon as this function returns.
    pub(crate) fn wait_borrowed(&self, frame: &Frame) {
        let limit = frame.request.deadline() + overdue(frame.request.timeout);
        if self.backend_of(frame).is_some_and(|backend| help(&**backend, frame, limit)) {
            return;
        }
        if wait_and_report(frame, limit, self.warn_after, |after| self.report_wait(frame, after)) {
            return;
        }
        let error = frame.described(Error::new(
            ErrorKind::Internal,
            "the backend has not released borrowed memory in time, so the call continues to wait; this is a bug in \
                the backend",
        ));
        self.fail(&error);
        loop {
            complain(&error);
            if frame.wait_until(Instant::now() + Duration::from_secs(1)) {
                return;
            }
        }
    }
}

/// Lets the backend run the job, and jobs before it, on this thread, if the backend can do that. Returns whether the
/// job is done.
pub(crate) fn help(backend: &dyn Backend, frame: &Frame, limit: Instant) -> bool {
    let is_done = || frame.is_done();
    match frame.request.op.is_p2p() {
        true => backend.help_message(limit, &is_done),
        false => backend.help(limit, &is_done),
    }
    frame.is_done()
}

/// Waits until a job is done or `limit` has passed. Returns whether the job is done. If the wait takes longer than
/// `after`, `report` is called once.
pub(crate) fn wait_and_report(
    frame: &Frame,
    limit: Instant,
    after: Option<Duration>,
    report: impl FnOnce(Duration),
) -> bool {
    if let Some(after) = after {
        let soon = Instant::now() + after;
        if soon < limit {
            if frame.wait_until(soon) {
                return true;
            }
            report(after);
        }
    }
    frame.wait_until(limit)
}

/// Fails a handle's group if the outcome is an error with status `Failed`, and the group still exists.
pub(crate) fn observe(group: &Weak<Group>, outcome: &Result<Outcome>) {
    if let (Err(_), Some(group)) = (outcome, group.upgrade()) {
        group.observe(outcome);
    }
}
