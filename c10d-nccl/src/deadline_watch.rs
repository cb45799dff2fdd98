//! The thread that keeps the promise of time: it ends every job by its deadline, whatever CUDA and NCCL are stuck in.

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

/// How long a call that runs is waited for before its communicator is aborted: by then it was not just held up.
const CALL: Duration = Duration::from_secs(1);
/// How long an abort may take before the communicators are declared lost.
const ABORT: Duration = Duration::from_secs(5);

pub(crate) struct DeadlineWatch {
    pub(crate) jobs: Arc<JobTable>,
    pub(crate) comms: Arc<Comms>,
    pub(crate) cuda: Arc<dyn CudaApi>,
    pub(crate) device: u16,
    pub(crate) side: Option<SideChannel>,
}

/// A job that the device may be at.
struct Held {
    job: Job,
    /// What of its memory is kept allocated until the abort is through.
    addresses: Vec<u64>,
    /// Whether that is all of it.
    all: bool,
}

impl DeadlineWatch {
    /// Watches until everything is over, or something fails.
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
        // Held from here, so that memory that is given back meanwhile is not given out again under a running kernel.
        let held: Vec<Held> = issued.into_iter().map(|(job, _)| self.hold(job)).collect();
        let aborted = self.abort(held.iter().flat_map(|h| h.addresses.clone()).collect());
        let through = aborted.recv_timeout(grace / 4).is_ok();
        let mut borrowed = Vec::new();
        for Held { job, all, .. } in held {
            if through || all {
                job.complete(Err(cause.clone()));
                continue;
            }
            let mut error = cause.clone();
            let report = error.report_mut();
            report.status = Status::Failed;
            report.what.push_str("; the device did not let go of the buffers, which are left to it");
            borrowed.extend(job.fail_keeping(error).err());
        }
        if !through && aborted.recv_timeout(ABORT).is_err() {
            let what = "ncclCommAbort does not come back; the communicators are lost, their memory is left behind";
            contain("a tracing subscriber", || tracing::error!(target: "c10d", "{what}"));
            // Nothing else keeps borrowed memory from its owner.
            if borrowed.is_empty() || aborted.recv().is_err() {
                return std::mem::forget(borrowed);
            }
        }
        borrowed.into_iter().for_each(|job| job.complete(Err(cause.clone())));
    }

    /// Aborts the communicators, on a thread of its own, since that may never come back; says when it is through. Then the
    /// memory at these addresses is let go.
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
                tracing::error!(target: "c10d", "{e}; communicators and buffers are left behind");
            });
        }
        aborted
    }

    /// Keeps the job's memory allocated until the abort is through, as far as that can be done.
    fn hold(&self, job: Job) -> Held {
        let request = job.request();
        let spans: Vec<Span> = request.inputs().iter().chain(request.outputs()).copied().collect();
        let mut addresses = Vec::new();
        let mut all = true;
        for span in spans.iter().filter(|s| s.count() > 0) {
            if let Memory::Cuda(at) = span.memory() {
                if crate::cuda::retain(&*self.cuda, self.device, at) { addresses.push(at) } else { all = false }
            }
        }
        Held { job, addresses, all }
    }
}
