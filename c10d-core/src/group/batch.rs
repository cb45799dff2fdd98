//! Batches: several messages that are started at once.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::run::OnPanic;
use super::work::{Handle, Work};
use super::{Group, Lane, ProcessGroup};
use crate::Error;
use crate::backend::registry::forward;
use crate::backend::{Job, Kernel};
use crate::buffer::{Buf, BufMut, Buffers, Outcome, RawSpans, Source, Target};
use crate::call::Call;
use crate::catalog::OpKind;
use crate::options::Params;

impl ProcessGroup {
    /// Starts several messages at once: calls of [`send`](crate::op::send) and [`recv`](crate::op::recv), in any order,
    /// to and from any ranks. The backend gets all of them before it waits for any of them, so ranks may send to each
    /// other in any order without a deadlock. Each message has its own handle.
    ///
    /// The handle of each call returns the call's error. A call that is not a send or a receive gets an error.
    ///
    /// ```no_run
    /// # use c10d_core::{ProcessGroup, op};
    /// # fn f(pg: ProcessGroup) -> c10d_core::Result<()> {
    /// let (left, right) = ((pg.rank() + pg.size() - 1) % pg.size(), (pg.rank() + 1) % pg.size());
    /// let sends = vec![op::send(vec![1f32; 8], right, 0), op::send(vec![2f32; 8], left, 1)];
    /// let receives = vec![op::recv(vec![0f32; 8], left, 0), op::recv(vec![0f32; 8], right, 1)];
    /// let (sent, received) = pg.batch(sends, receives);
    /// for work in received {
    ///     work.wait()?;
    /// }
    /// # sent.into_iter().try_for_each(|work| work.wait().map(drop))?;
    /// # Ok(()) }
    /// ```
    pub fn batch<I: Buf + 'static, O: BufMut + 'static>(
        &self,
        sends: Vec<Call<Source<I>>>,
        receives: Vec<Call<Target<O>>>,
    ) -> (Vec<Work<I>>, Vec<Work<O>>) {
        let mut batch = Batch::new(&self.0);
        let sent = sends.into_iter().map(|call| Work(batch.add(call, true))).collect();
        let received = receives.into_iter().map(|call| Work(batch.add(call, true))).collect();
        batch.submit();
        (sent, received)
    }

    /// The same as [`batch`](Self::batch), for spans instead of buffers.
    ///
    /// # Safety
    /// The same as for [`submit_raw`](Self::submit_raw), for each call.
    pub unsafe fn submit_raw_batch(
        &self,
        calls: Vec<(OpKind, Params, Option<Duration>, RawSpans)>,
    ) -> Vec<Work<Outcome>> {
        let mut batch = Batch::new(&self.0);
        let call = |(op, params, timeout, buffers)| Call { op, params, timeout, error: None, buffers };
        let works = calls.into_iter().map(|c| Work(batch.add(call(c), false))).collect();
        batch.submit();
        works
    }
}

/// The jobs of a batch, grouped by lane.
struct Batch<'a> {
    group: &'a Arc<Group>,
    lanes: Vec<(&'a Lane, Vec<Job>)>,
}

impl<'a> Batch<'a> {
    fn new(group: &'a Arc<Group>) -> Batch<'a> {
        Batch { group, lanes: Vec::new() }
    }

    fn add<B: Buffers + 'static>(&mut self, mut call: Call<B>, owns: bool) -> Handle<'static, B::Back> {
        if !call.op.is_p2p() {
            let what = format!("{} is not a message; a batch can only have calls of send and recv", call.op);
            call.error = Some(Error::invalid(what));
        }
        let (handle, ready) = self.group.ready(call, None, owns);
        let Some(ready) = ready else { return handle };
        let lane = ready.aim.lane;
        if !std::ptr::fn_addr_eq(ready.aim.kernel, forward as Kernel) {
            // A kernel that a provider registered takes one job at a time. Only a backend takes several at once, so
            // only the jobs whose kernel is `forward` are collected.
            self.run(|| (ready.aim.kernel)(lane.context(self.group.size), ready.job));
            return handle;
        }
        match self.lanes.iter_mut().find(|(l, _)| std::ptr::eq(*l, lane)) {
            Some((_, jobs)) => jobs.push(ready.job),
            None => self.lanes.push((lane, vec![ready.job])),
        }
        handle
    }

    fn run(&self, give: impl FnOnce()) {
        let on_panic = OnPanic { group: self.group, frame: None };
        give();
        std::mem::forget(on_panic);
    }

    fn submit(mut self) {
        for (lane, jobs) in std::mem::take(&mut self.lanes) {
            self.run(|| lane.backend.submit_batch(jobs));
        }
    }
}
