//! The thread that keeps the promise of time: it ends every job by its deadline, whatever CUDA and NCCL are stuck in.

use std::sync::Arc;

use c10d_core::{Error, Job, Memory, Span, Status};

use crate::board::{Board, Stage};
use crate::comms::Comms;
use crate::cuda::CudaApi;
use crate::side::Side;

pub(crate) struct Keeper {
    pub(crate) board: Arc<Board>,
    pub(crate) comms: Arc<Comms>,
    pub(crate) cuda: Arc<dyn CudaApi>,
    pub(crate) device: u16,
    pub(crate) side: Option<Side>,
}

impl Keeper {
    /// Watches until everything is over, or something fails.
    pub(crate) fn run(self) {
        let Some(cause) = self.board.wait_failure() else { return };
        if let Some(side) = &self.side {
            side.abort(&cause);
        }
        let grace = self.board.grace();
        // Half of the time for the device to let go, the rest to spare.
        self.board.bar(grace / 20);
        let jobs = self.board.take_all();
        let (queued, issued): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(_, stage)| *stage == Stage::Queued);
        for (job, _) in queued {
            job.complete(Err(cause.clone()));
        }
        // Held from here, so that memory that is given back meanwhile is not given out again under a running kernel.
        let held: Vec<(Job, bool, Vec<u64>)> = issued.into_iter().map(|(job, _)| self.hold(job)).collect();
        let addresses: Vec<u64> = held.iter().flat_map(|(_, _, addresses)| addresses.clone()).collect();
        let (cuda, device) = (self.cuda.clone(), self.device);
        let abort = self.comms.abort(move || release(&*cuda, device, &addresses));
        let ended = abort.wait(grace / 4);
        for (job, all, _) in held {
            end(job, &cause, ended || all);
        }
        self.comms.see_to_end(&abort);
    }

    /// Keeps the job's memory allocated until the abort is through; whether that could be done for all of it.
    fn hold(&self, job: Job) -> (Job, bool, Vec<u64>) {
        let request = job.request();
        let spans: Vec<Span> = request.inputs().iter().chain(request.outputs()).copied().collect();
        let mut held = Vec::new();
        let mut all = true;
        for span in spans.iter().filter(|s| s.count() > 0) {
            if let Memory::Cuda(at) = span.memory() {
                if crate::cuda::retain(&*self.cuda, self.device, at) { held.push(at) } else { all = false }
            }
        }
        (job, all, held)
    }
}

/// Ends a job that the device may still be at, unless `safe`.
fn end(job: Job, cause: &Error, safe: bool) {
    if safe {
        return job.complete(Err(cause.clone()));
    }
    let mut error = cause.clone();
    let report = error.report_mut();
    report.status = Status::Failed;
    report.what.push_str("; the device did not let go of the buffers: restart the process before you trust its memory");
    // Buffers that the operation owns are written off.
    if let Err(job) = job.fail_keeping(error.clone()) {
        job.complete(Err(error));
    }
}

fn release(cuda: &dyn CudaApi, device: u16, addresses: &[u64]) {
    addresses.iter().for_each(|at| crate::cuda::release(cuda, device, *at));
}
