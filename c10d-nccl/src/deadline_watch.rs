//! The thread that guarantees deadlines. It ends every job in time, even if a call of CUDA or NCCL does not return.

use std::sync::Arc;
use std::time::Duration;

use c10d_core::backend::{Job, SideChannel};
use c10d_core::panics::contain;
use c10d_core::process::spawn;
use c10d_core::{Memory, Span, Status};
use crossbeam_channel::{Receiver, bounded};

use crate::communicator::Comms;
use crate::cuda::CudaApi;
use crate::jobs::{JobTable, Stage};

/// How long to wait for a running call of CUDA, NCCL or the store before the communicators are aborted. A longer call
/// is assumed to hang.
const CALL: Duration = Duration::from_secs(1);
/// How long to wait for an abort. If the abort takes longer, the communicators are leaked.
const ABORT: Duration = Duration::from_secs(5);

pub(crate) struct DeadlineWatch {
    pub(crate) jobs: Arc<JobTable>,
    pub(crate) comms: Arc<Comms>,
    pub(crate) cuda: Arc<dyn CudaApi>,
    pub(crate) device: u16,
    pub(crate) side: Option<SideChannel>,
}

/// A job whose memory the device may be using.
struct RunningJob {
    job: Job,
    /// The addresses of the job's tensors that are retained until the abort is finished.
    addresses: Vec<u64>,
    /// Whether all tensors of the job are retained.
    all: bool,
}

impl DeadlineWatch {
    /// Runs until something fails, and then ends all jobs. Returns earlier if the backend is closed and has no jobs.
    pub(crate) fn run(self) {
        let Some(cause) = self.jobs.wait_failure() else { return };
        if let Some(side) = &self.side {
            contain("telling the peers", || side.abort(&cause));
        }
        let grace = self.jobs.grace();
        self.jobs.bar();
        let jobs = self.jobs.take_all();
        let (queued, issued): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(_, stage)| *stage == Stage::Queued);
        for (job, _) in queued {
            job.complete(Err(cause.clone()));
        }
        // Retained memory is not reused while a CUDA kernel of NCCL still uses it, even if its owner frees it.
        let held: Vec<RunningJob> = issued.into_iter().map(|(job, _)| self.hold(job)).collect();
        let aborted = self.abort(held.iter().flat_map(|h| h.addresses.clone()).collect());
        let through = aborted.recv_timeout(grace / 4).is_ok();
        let mut borrowed = Vec::new();
        for RunningJob { job, all, .. } in held {
            if through || all {
                job.complete(Err(cause.clone()));
                continue;
            }
            let mut error = cause.clone();
            let report = error.report_mut();
            report.status = Status::Failed;
            report.what.push_str("; the device may still use the buffers, so they are not returned");
            borrowed.extend(job.fail_keeping(error).err());
        }
        if !through && aborted.recv_timeout(ABORT).is_err() {
            let what = "ncclCommAbort does not return; the communicators and their memory are leaked";
            contain("a tracing subscriber", || tracing::error!(target: "c10d", "{what}"));
            // Borrowed memory is not freed as long as its caller waits for the job. So the jobs are completed only when
            // the abort is finished.
            if borrowed.is_empty() || aborted.recv().is_err() {
                return std::mem::forget(borrowed);
            }
        }
        borrowed.into_iter().for_each(|job| job.complete(Err(cause.clone())));
    }

    /// Aborts the communicators on a new thread, since the abort may never return. The receiver gets a message when the
    /// abort is finished. After that, the memory at these addresses is released.
    fn abort(&self, addresses: Vec<u64>) -> Receiver<()> {
        let (tell, aborted) = bounded(1);
        let (jobs, comms, cuda, device) = (self.jobs.clone(), self.comms.clone(), self.cuda.clone(), self.device);
        let run = move || {
            jobs.quiet(CALL);
            comms.abort();
            let _ = tell.send(());
            addresses.iter().for_each(|at| crate::cuda::release(&*cuda, device, *at));
        };
        if let Err(e) = spawn("c10d-nccl-abort", run) {
            contain("a tracing subscriber", || {
                tracing::error!(target: "c10d", "{e}; communicators and buffers are leaked");
            });
        }
        aborted
    }

    /// Retains as much as possible of the job's memory until the abort is finished.
    fn hold(&self, job: Job) -> RunningJob {
        let request = job.request();
        let spans: Vec<Span> = request.inputs().iter().chain(request.outputs()).copied().collect();
        let mut addresses = Vec::new();
        let mut all = true;
        for span in spans.iter().filter(|s| s.count() > 0) {
            if let Memory::Cuda(at) = span.memory() {
                if crate::cuda::retain(&*self.cuda, self.device, at) { addresses.push(at) } else { all = false }
            }
        }
        RunningJob { job, addresses, all }
    }
}
