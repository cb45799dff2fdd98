//! The queue of started calls of a sparse lane, and the thread that runs them in order.

use std::sync::Arc;
use std::time::Instant;

use super::{Backend, Composed, Job, KernelContext, Origin, WorkerQueue};
use crate::panics::{caught, contain};
use crate::{Error, ErrorKind, Phase, Result};

/// A queue of calls with their kernels. Calls that are in the queue when it is dropped still run.
#[derive(Default)]
pub(crate) struct SparseQueue(Arc<WorkerQueue<(Job, Composed)>>);

impl SparseQueue {
    /// Queues a call.
    pub(crate) fn push(&self, job: Job, kernel: Composed, ctx: &KernelContext<'_>) {
        let (queue, info, backend, size) = (self.0.clone(), ctx.info.clone(), ctx.backend.clone(), ctx.size);
        let pushed = self.0.push((job, kernel), "c10d sparse", move || serve(&queue, &info, &backend, size));
        if let Err(((job, _), error)) = pushed {
            job.complete(Err(error));
        }
    }

    /// Waits until no call is queued or running. A blocking call holds the lane's turn while it waits here, so no other
    /// thread pushes calls during the wait.
    pub(crate) fn wait_idle(&self, deadline: Instant) -> Result {
        if self.0.drain(deadline) {
            return Ok(());
        }
        let what = "sparse calls that were started before are still in flight";
        Err(Error::new(ErrorKind::Timeout, what).phase(Phase::Announce))
    }
}

impl Drop for SparseQueue {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn serve(queue: &WorkerQueue<(Job, Composed)>, info: &Arc<Origin>, backend: &Arc<dyn Backend>, size: u32) {
    let ctx = KernelContext { info, backend, size, queue: None };
    while let Some((job, kernel)) = queue.next() {
        let result = caught(|| kernel(&ctx, job.request())).unwrap_or_else(|words| {
            let what = format!("the kernel of a sparse call panicked: {words}");
            let error = info.described(Error::new(ErrorKind::Internal, what));
            contain("a backend's abort", || backend.abort(&error));
            Err(error)
        });
        job.complete_with(result);
    }
}
