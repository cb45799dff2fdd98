//! What a kernel may use besides the job; kernels that are made of several dense ops.

use std::sync::Arc;

use super::{SparseQueue, validate};
use crate::backend::{Backend, Caller, Fingerprint, Job, Origin, Request, fingerprint, nested};
use crate::buffer::{Buffers, Outcome};
use crate::call::Call;
use crate::device::DeviceRuntime;
use crate::{Error, ErrorKind, Result, Status};

/// What a kernel may use besides the job.
pub struct KernelContext<'a> {
    pub(crate) info: &'a Arc<Origin>,
    pub(crate) backend: &'a Arc<dyn Backend>,
    pub(crate) size: u32,
    /// Where a sparse key's started calls run.
    pub(crate) queue: Option<&'a SparseQueue>,
}

/// A kernel that is made of several dense ops, which it runs by [`KernelContext::run_step`]. It waits for each.
pub type Composed = fn(&KernelContext<'_>, &Request) -> Result<Outcome>;

impl KernelContext<'_> {
    /// The backend that serves the job's key in the job's group.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        self.backend
    }

    /// The runtime of the device whose tensors the key is for, where that is not the host.
    pub fn device(&self) -> Result<Arc<dyn DeviceRuntime>> {
        let why = || format!("backend {} has no device runtime, by which its tensors could be read", self.info.backend);
        self.backend.device().ok_or_else(|| Error::unsupported(why()))
    }

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.info.rank
    }

    /// How many ranks the group has.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Runs a kernel that is made of several dense ops, and completes the job with what it gives. For sparse keys, whose
    /// lane belongs to such kernels alone: a caller that waits does the work itself, after whatever was started before; a
    /// call that was started runs on the lane's thread.
    pub fn compose(self, job: Job, kernel: Composed) {
        match self.queue {
            Some(queue) if job.request().caller == Caller::Continues => queue.push(job, kernel, &self),
            Some(queue) => match queue.wait_idle(job.request().deadline()) {
                Ok(()) => self.finish(job, kernel),
                Err(e) => job.complete(Err(e)),
            },
            None => {
                let what = "a kernel made of several ops is registered for a dense key, whose lane is shared";
                job.complete(Err(Error::new(ErrorKind::Internal, what)));
            }
        }
    }

    pub(crate) fn finish(&self, job: Job, kernel: Composed) {
        let result = kernel(self, job.request());
        job.complete_with(result);
    }

    /// Runs one dense op as step `step` (1 to 127) of a composed kernel, and waits for it, for as long as the call that
    /// it is part of may still take. All ranks must run the same steps. Nothing is numbered: the step has the call's
    /// number, and its element type and reduce operation go before the step's payload, so that ranks that disagree about
    /// them learn it at the first step.
    ///
    /// # Errors
    /// As of the op; all of status `Failed`.
    pub fn run_step<B: Buffers>(&self, outer: &Request, step: u8, call: Call<B>) -> Result<B::Back> {
        let Call { op, params, error, mut buffers, .. } = call;
        let mut request = Request::new(op, Caller::Waits, params, outer.timeout);
        // So that errors count from the call, too, and not from the step.
        request.deadline = outer.deadline().into();
        let described = error.map_or(Ok(()), Err).and_then(|()| buffers.describe(&mut request.spans));
        let outcome = described.and_then(|()| self.step(outer, step, request)).map_err(|mut e| {
            // Something may have been sent, if not in this step.
            e.report_mut().status = Status::Failed;
            e
        })?;
        Ok(buffers.back(outcome))
    }

    fn step(&self, outer: &Request, step: u8, mut request: Request) -> Result<Outcome> {
        let span = request.outputs().first().or(request.inputs().first());
        request.key = span.map_or(outer.key.dense(), |s| s.device().key());
        validate(&request, self.info.rank, self.size)?;
        request.seq = outer.seq;
        let own = fingerprint(&request);
        request.fingerprint = Fingerprint {
            step: outer.fingerprint.step | step,
            count: own.count,
            root: own.root,
            rest: own.rest ^ (u32::from(own.op) << 8 | u32::from(own.dtype)) << 16,
            ..outer.fingerprint
        };
        nested(&**self.backend, Some(self.info), request)
    }
}
