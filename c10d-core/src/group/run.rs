//! The way of a call from the group to its kernel.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::{Group, Lane, ProcessGroup};
use crate::buffer::{Buffers, RawSpans, Sink};
use crate::call::Call;
use crate::dispatch::{self, Fingerprint, KernelContext};
use crate::job::{Caller, Frame, Job, Outcome, Request, let_go};
use crate::ops::{OpKind, Params};
use crate::registry::Kernel;
use crate::scope::{Scope, ScopeCount};
use crate::types::{DType, Device, DispatchKey};
use crate::work::{Counted, Handle, Work};
use crate::{Error, Result, Status};

/// Where a validated request goes.
#[derive(Clone, Copy)]
pub(crate) struct Aim<'a> {
    lane: &'a Lane,
    kernel: Kernel,
}

impl ProcessGroup {
    /// Runs a call and waits for it.
    ///
    /// Gives the buffers back, and whatever else the call yields. On an error the buffers' contents are unspecified.
    ///
    /// ```no_run
    /// # use c10d_core::{ProcessGroup, ReduceOp, op};
    /// # use std::time::Duration;
    /// # fn f(pg: ProcessGroup) -> c10d_core::Result<()> {
    /// let mut x = vec![1f32; 1024];
    /// pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(Duration::from_secs(5)))?;
    /// # Ok(()) }
    /// ```
    pub fn run<B: Buffers>(&self, call: Call<B>) -> Result<B::Back> {
        let Call { op, params, timeout, error, mut buffers } = call;
        let mut spans = Sink::default();
        let described = error.map_or(Ok(()), Err).and_then(|()| buffers.describe(&mut spans));
        let outcome = self.0.run(op, params, timeout, spans, described)?;
        Ok(buffers.back(outcome))
    }

    /// Starts a call that owns its buffers, and goes on.
    ///
    /// The buffers come back from [`Work::wait`], on errors too. Dropping the handle lets the op finish by itself and
    /// frees the buffers then; leaking it leaks them.
    ///
    /// ```no_run
    /// # use c10d_core::{ProcessGroup, ReduceOp, op};
    /// # fn f(pg: ProcessGroup, gradient: Vec<f32>) -> c10d_core::Result<()> {
    /// let work = pg.start(op::all_reduce(gradient, ReduceOp::Avg));
    /// // .. something else ..
    /// let gradient = work.wait()?;
    /// # Ok(()) }
    /// ```
    pub fn start<B: Buffers + 'static>(&self, call: Call<B>) -> Work<B::Back> {
        Work(self.0.start(call, None))
    }

    /// Starts a call over bare spans.
    ///
    /// # Safety
    /// The memory behind the spans stays allocated, is used by nobody else, and inputs are written by nobody, until the
    /// work is done: until `wait` returned, or the handle says `is_done`. Dropping the handle does not end the work.
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

    /// A scope in which calls may be started on borrowed buffers. It returns when all of them are over, whatever became
    /// of their handles.
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

/// Leaves a stack frame only when its job is back, also when the kernel panics.
struct Returned<'a> {
    frame: &'a Frame,
    group: &'a Group,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        if !self.frame.is_done() {
            self.group.wait_borrowed(self.frame);
        }
    }
}

impl Group {
    /// Runs a call on this thread's stack.
    fn run(
        &self,
        op: OpKind,
        params: Params,
        timeout: Option<Duration>,
        spans: Sink,
        described: Result,
    ) -> Result<Outcome> {
        let mut request = self.request(op, Caller::Waits, params, timeout, spans);
        let aim = described.and_then(|()| self.aim(&mut request)).map_err(|e| self.refused(op, e))?;
        if tracing::enabled!(tracing::Level::TRACE) {
            tracing::trace!(target: "c10d", group = %self.name, rank = self.rank, %op, "run");
        }
        let turn = aim.lane.take_turn(&mut request).map_err(|e| self.refused(op, e))?;
        let frame = Frame::new(request, aim.lane.info.clone(), None, false);
        let returned = Returned { frame: &frame, group: self };
        // SAFETY: the frame stays here until `returned` has seen it done.
        let job = unsafe { Job::new(NonNull::from(&frame)) };
        (aim.kernel)(KernelContext { lane: aim.lane }, job);
        drop(turn);
        drop(returned);
        // SAFETY: done, and nobody else has the frame.
        let outcome = unsafe { frame.take_outcome() };
        // SAFETY: the op is over, the spans are the caller's again.
        unsafe { settle(&frame.request, &outcome) };
        self.observe(&outcome);
        outcome
    }

    /// Starts a call whose buffers live in the allocation that the handle and the job share.
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
        let Call { op, params, timeout, error, buffers } = call;
        let request = self.request(op, Caller::Continues, params, timeout, Sink::default());
        let info = self.lanes.first().map(|l| l.info.clone()).unwrap_or_else(|| self.bare_info());
        let mut state = Counted::new(Frame::new(request, info, None, owns), buffers, Arc::downgrade(self), scope);
        // The buffers are described where they stay: moving a `Box` would invalidate what was written down.
        let prepared = {
            let (frame, buffers) = Counted::parts(&mut state);
            error
                .map_or(Ok(()), Err)
                .and_then(|()| buffers.describe(&mut frame.request.spans))
                .and_then(|()| self.aim(&mut frame.request))
                .and_then(|aim| {
                    frame.lane = aim.lane.info.clone();
                    frame.request.deadline();
                    let turn = aim.lane.take_turn(&mut frame.request)?;
                    frame.release = Some(Counted::<B>::release);
                    Ok((aim, turn))
                })
        };
        if tracing::enabled!(tracing::Level::TRACE) {
            tracing::trace!(target: "c10d", group = %self.name, rank = self.rank, %op, "start");
        }
        match prepared {
            Ok((aim, turn)) => {
                let job = Counted::job(&state);
                (aim.kernel)(KernelContext { lane: aim.lane }, job);
                drop(turn);
            }
            // SAFETY: no job was made, so the right to complete is still here; the frame has no release.
            Err(e) => unsafe { Frame::complete(Counted::frame(&state), Err(self.refused(op, e))) },
        }
        Handle(state)
    }

    fn bare_info(&self) -> Arc<super::LaneInfo> {
        let (group, global) = (self.name.clone(), self.global.clone());
        Arc::new(super::LaneInfo { group, rank: self.rank, backend: "", global })
    }

    fn request(&self, op: OpKind, caller: Caller, params: Params, timeout: Option<Duration>, spans: Sink) -> Request {
        Request {
            op,
            key: DispatchKey::Cpu,
            caller,
            seq: 0,
            fingerprint: Fingerprint { seq: 0, op: 0, dtype: 0, reduce: 0, step: 0, count: 0, root: 0, rest: 0 },
            timeout: timeout.unwrap_or(self.timeout),
            params,
            stream: 0,
            spans,
            deadline: OnceLock::new(),
        }
    }

    /// Finds key, lane and kernel; validates; computes the fingerprint.
    fn aim(&self, request: &mut Request) -> Result<Aim<'_>> {
        if let Some(cause) = self.failed.get() {
            return Err(cause.clone());
        }
        if matches!(request.op, OpKind::Gather | OpKind::Scatter) && request.params.root == Params::ROOT_IS_ME {
            request.params.root = self.rank;
        }
        request.key = self.key(request);
        dispatch::validate(request, self.rank, self.size)?;
        let (route, lane) = self.route(request.key)?;
        let kernel = route.kernels[request.op as usize].ok_or_else(|| {
            Error::unsupported(format!(
                "backend {} does not offer {} on {}",
                lane.info.backend, request.op, request.key
            ))
        })?;
        if let Some(dtype) = request.dtype()
            && !lane.capabilities.offers(request.op, dtype, request.params.reduce)
        {
            let reduce = if request.op.reduces() { format!(" with {}", request.params.reduce) } else { String::new() };
            let what = format!("backend {} does not offer {} of {dtype}{reduce}", lane.info.backend, request.op);
            return Err(Error::unsupported(what));
        }
        request.fingerprint = dispatch::fingerprint(request);
        Ok(Aim { lane, kernel })
    }

    fn key(&self, request: &Request) -> DispatchKey {
        if let Some(span) = request.outputs().first().or(request.inputs().first()) {
            return span.device().key();
        }
        if request.op == OpKind::MonitoredBarrier {
            return DispatchKey::Cpu;
        }
        // A barrier has no buffer to go by.
        let served = |key: &DispatchKey| self.routes[*key as usize].is_ok();
        let told =
            self.bound.map(Device::key).or((!request.params.device_ids().is_empty()).then_some(DispatchKey::Cuda));
        told.filter(served)
            .or_else(|| [DispatchKey::Cpu, DispatchKey::Cuda, DispatchKey::PrivateUse1].into_iter().find(served))
            .unwrap_or(DispatchKey::Cpu)
    }

    /// Describes an error that arose before the backend had the job.
    fn refused(&self, op: OpKind, mut error: Error) -> Error {
        self.describe(&mut error);
        error.report_mut().op.get_or_insert(op);
        if error.status() == Status::Rejected {
            error.report_mut().phase.get_or_insert(crate::Phase::Validate);
        }
        error
    }

    /// A failed outcome fails the group, on the thread that sees it.
    pub(crate) fn observe(&self, outcome: &Result<Outcome>) {
        if let Err(error) = outcome
            && error.status() == Status::Failed
        {
            self.fail(error);
        }
    }

    /// Waits for a job whose memory is only borrowed: there is no returning before the backend let go.
    pub(crate) fn wait_borrowed(&self, frame: &Frame) {
        let limit = frame.request.deadline() + let_go(frame.request.timeout);
        if frame.wait_until(limit) {
            return;
        }
        let error = frame.described(Error::new(
            crate::ErrorKind::Internal,
            "the backend did not let go of borrowed memory in time; this call can only wait on: a defect of the backend",
        ));
        self.fail(&error);
        loop {
            eprintln!("c10d: {error}");
            if frame.wait_until(Instant::now() + Duration::from_secs(1)) {
                return;
            }
        }
    }
}

/// What is left to do with the outputs when an op is over.
///
/// # Safety
/// The op is over, and the outputs' memory belongs to the caller of this.
pub(crate) unsafe fn settle(request: &Request, outcome: &Result<Outcome>) {
    if request.dtype() == Some(DType::Bool) {
        for span in request.outputs() {
            // SAFETY: as promised by our caller.
            unsafe { span.normalise_bool() };
        }
    }
    let _ = outcome;
}

/// Lets a handle fail its group, if the group is still there.
pub(crate) fn observe(group: &Weak<Group>, outcome: &Result<Outcome>) {
    if let (Err(_), Some(group)) = (outcome, group.upgrade()) {
        group.observe(outcome);
    }
}
