//! The backend: takes jobs, and sees that each is ended in time whatever NCCL does.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use c10d_core::device::DeviceRuntime;
use c10d_core::{Backend, Capabilities, Error, ErrorKind, GroupInit, Job, Result};
use crossbeam_channel::bounded;

use crate::channel::{Item, Share};
use crate::comms::Comms;
use crate::cuda::CudaApi;
use crate::dialect::Dialect;
use crate::engine::{Order, Origin};
use crate::nccl::{Communicator, NcclApi};
use crate::side::{Messages, Side};
use crate::start::{Facts, Running, connect, run};
use crate::task::Task;
use crate::types::{CAPABILITIES, LEGACY_CAPABILITIES};

/// One rank of one group, on one GPU.
pub(crate) struct Nccl(Running);

impl Nccl {
    pub(crate) fn connect(nccl: Arc<dyn NcclApi>, cuda: Arc<dyn CudaApi>, facts: Facts) -> Result<Nccl> {
        Ok(Nccl(connect(nccl, cuda, facts)?))
    }

    /// Takes part in a division of the communicator.
    fn divide(&self, share: Share, deadline: Instant) -> Result<Communicator> {
        let (answer, answered) = bounded(1);
        let order = Order::Do(Item::Split(Some((share, answer))));
        let gone = || self.0.board.failure().unwrap_or_else(|| Error::new(ErrorKind::Shutdown, "the group is closed"));
        self.0.orders.send(order).map_err(|_| gone())?;
        answered.recv_deadline(deadline).map_err(|_| {
            let what = format!("ncclCommSplit did not come back in time{}", self.0.board.inside());
            self.0.board.failure().unwrap_or_else(|| Error::new(ErrorKind::Timeout, what))
        })
    }
}

// SAFETY: 1. A job is completed when its stream has passed its last call; or, after a failure, when the communicators were
// aborted; or else with its memory held back from reuse, as far as it is ours. 2. The keeper ends every job in time: it
// calls neither CUDA nor NCCL, and no lock is held while a job is completed.
unsafe impl Backend for Nccl {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn capabilities(&self) -> &Capabilities {
        if self.0.dialect == Dialect::TorchLegacy { &LEGACY_CAPABILITIES } else { &CAPABILITIES }
    }

    fn submit(&self, job: Job) {
        let mut task = match Task::of(&job, self.0.device) {
            Ok(task) => task,
            Err(e) => return job.complete(Err(e)),
        };
        let (print, timeout) = (job.request().fingerprint, job.request().timeout);
        let checks = self.0.checks.as_ref().filter(|_| !task.op.is_p2p());
        let awaits = checks.and(self.0.side.as_ref()).and_then(Side::messages).map(Messages::before);
        if let Some(id) = self.0.board.enter(job, awaits) {
            task.id = id;
            checks.into_iter().for_each(|c| c.issued(id, print, timeout));
            if self.0.orders.send(Order::Do(Item::Run(task))).is_err() {
                let what = "the thread of this group's communicators is gone";
                self.0.board.fail(Error::new(ErrorKind::Internal, what));
            }
        }
    }

    fn abort(&self, cause: &Error) {
        self.0.fail(cause.clone());
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        self.0.board.close();
        if self.0.orders.send(Order::Close { deadline }).is_err() {
            return self.0.board.failure().map_or(Ok(()), Err);
        }
        self.0.board.wait_over(deadline)?;
        self.0.leave();
        Ok(())
    }

    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let color = ranks.iter().copied().min()?;
        let Running { nccl, cuda, device, .. } = &self.0;
        // The new group fails by itself.
        let comms = Arc::new(Comms::new(nccl.clone(), cuda.clone(), *device));
        let facts = match Facts::of(init, *device) {
            Ok(facts) => facts,
            Err(e) => return Some(Err(e)),
        };
        let divided = self.divide(Share { color, key: init.rank, comms: comms.clone() }, init.deadline);
        let started = divided.and_then(|comm| run(nccl.clone(), cuda.clone(), comms, facts, Origin::Split(comm)));
        Some(started.map(|running| Arc::new(Nccl(running)) as Arc<dyn Backend>))
    }

    fn no_split(&self) {
        // Where the thread is gone, the group has failed, and the others see that.
        let _ = self.0.orders.send(Order::Do(Item::Split(None)));
    }

    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        Some(self.0.cuda.clone())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.0.leave();
        self.0.board.close();
        // What was started is still run.
        let _ = self.0.orders.send(Order::Close { deadline: Instant::now() + std::time::Duration::from_secs(30) });
    }
}
