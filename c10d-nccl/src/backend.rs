//! The backend. It accepts jobs and ensures that each ends in time, whatever NCCL does.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use c10d_core::backend::{Backend, Capabilities, GroupInit, Job};
use c10d_core::device::DeviceRuntime;
use c10d_core::{Error, ErrorKind, Result};
use crossbeam_channel::bounded;

use crate::channel::{ChannelWork, Derive, Heir};
use crate::communicator::Comms;
use crate::cuda::CudaApi;
use crate::dialect::Dialect;
use crate::engine::{Order, Origin};
use crate::nccl::{NcclApi, Optional};
use crate::start::{Running, Silence, StartOptions, await_from, connect, run};
use crate::task::Task;
use crate::types::{CAPABILITIES, LEGACY_CAPABILITIES};

/// One rank of one group, on one GPU.
pub(crate) struct Nccl(Running);

impl Nccl {
    pub(crate) fn connect(nccl: Arc<dyn NcclApi>, cuda: Arc<dyn CudaApi>, facts: StartOptions) -> Result<Nccl> {
        Ok(Nccl(connect(nccl, cuda, facts)?))
    }

    /// Derives another communicator from this one. NCCL begins to derive it when the ops that were submitted earlier
    /// have ended.
    fn derive(&self, what: &str, how: Derive, init: &GroupInit) -> Result<Nccl> {
        let Running { nccl, cuda, device, jobs, orders, .. } = &self.0;
        let facts = StartOptions::of(init, *device)?;
        let (answer, answered) = bounded(1);
        let gone = || jobs.failure().unwrap_or_else(|| Error::new(ErrorKind::Shutdown, "the group is closed"));
        // The new group fails independently, so its communicators are registered separately.
        let comms = Arc::new(Comms::new(nccl.clone(), cuda.clone(), *device));
        let heir = Heir { comms: comms.clone(), answer };
        orders.send(Order::Do(ChannelWork::Derive(how, Some(heir)))).map_err(|_| gone())?;
        let comm = await_from(&answered, &facts.reports, init.deadline).map_err(|silence| match silence {
            Silence::Reported(error) => error,
            Silence::Late | Silence::Gone => jobs.failure().unwrap_or_else(|| {
                Error::new(ErrorKind::Timeout, format!("{what} did not return in time{}", jobs.inside()))
            }),
        })?;
        Ok(Nccl(run(nccl.clone(), cuda.clone(), comms, facts, Origin::Split(comm))?))
    }
}

/// Returns whether `mine` is true on all ranks.
fn on_all(mine: bool, init: &GroupInit) -> Result<bool> {
    let key = |rank: u32| format!("shrink/{rank}");
    init.store.set(&key(init.rank), &[u8::from(mine)], init.deadline)?;
    let keys: Vec<String> = (0..init.size).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let all = init.store.multi_get(&keys, init.deadline)?;
    Ok(all.iter().all(|answer| answer == &[1]))
}

// SAFETY: 1. A job is completed when the channel's stream has finished the job's last call of NCCL or, after a failure,
// when the abort of the communicators is finished. It is completed earlier only if its memory is retained until then,
// or if the operation owns the memory, which is then leaked. 2. The deadline watch ends every job in time, except one
// with borrowed memory that cannot be retained; such a job waits for the abort. The watch calls neither CUDA nor NCCL,
// and holds no lock while it completes a job.
unsafe impl Backend for Nccl {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn capabilities(&self) -> &Capabilities {
        if self.0.dialect == Dialect::TorchLegacy { &LEGACY_CAPABILITIES } else { &CAPABILITIES }
    }

    fn submit(&self, job: Job) {
        let Running { jobs, orders, checks, device, .. } = &self.0;
        let task = Task::of(&job, *device);
        let awaits = checks.as_ref().and_then(|c| c.awaits(job.request()));
        let Some(id) = jobs.enter(job, awaits) else { return };
        let order = match task {
            Ok(task) => Order::Do(ChannelWork::Run(Task { id, ..task })),
            Err(e) => {
                jobs.refuse(id, e);
                Order::Look
            }
        };
        if orders.send(order).is_err() {
            jobs.fail(Error::new(ErrorKind::Internal, "the thread of this group's communicators is gone"));
        }
    }

    fn abort(&self, cause: &Error) {
        self.0.fail(cause.clone());
    }

    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.0.side.as_ref()?.messages()?.waits()
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        self.0.jobs.close();
        if self.0.orders.send(Order::Close { deadline }).is_err() {
            return self.0.jobs.failure().map_or(Ok(()), Err);
        }
        self.0.jobs.wait_over(deadline)?;
        self.0.leave(deadline);
        Ok(())
    }

    fn leave(&self, deadline: Instant) -> Result {
        self.0.jobs.close();
        // The communicators are closed only when the backend is dropped, since other ranks may need more time.
        self.0.jobs.wait_idle(deadline)?;
        self.0.leave(deadline);
        Ok(())
    }

    fn failure(&self) -> Option<Error> {
        self.0.jobs.failure()
    }

    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let how = Derive::Split { color: Some(ranks.iter().copied().min()?), key: init.rank };
        let made = self.derive("ncclCommSplit", how, init);
        Some(made.map(|nccl| Arc::new(nccl) as Arc<dyn Backend>))
    }

    fn shrink(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        // A failed communicator was aborted, so nothing can be derived from it.
        let able = self.0.nccl.has(Optional::Shrink) && self.0.jobs.failure().is_none();
        match on_all(able, init) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(e) => return Some(Err(e)),
        }
        let without = (0..self.0.size).filter(|r| !ranks.contains(r)).map(|r| r as i32).collect();
        let made = self.derive("ncclCommShrink", Derive::Shrink { without }, init);
        Some(made.map(|nccl| Arc::new(nccl) as Arc<dyn Backend>))
    }

    fn no_split(&self) {
        // The send fails only if the engine's thread has ended. The group has then failed, and the ranks that wait in
        // ncclCommSplit notice the failure.
        let _ = self.0.orders.send(Order::Do(ChannelWork::Derive(Derive::Split { color: None, key: 0 }, None)));
    }

    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        Some(self.0.cuda.clone())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.0.leave(Instant::now());
        self.0.jobs.close();
        // Started jobs may still be running. The engine's thread closes the communicators when these jobs have ended.
        let _ = self.0.orders.send(Order::Close { deadline: Instant::now() + std::time::Duration::from_secs(30) });
    }
}
