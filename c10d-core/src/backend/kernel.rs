//! The context in which a kernel runs.

use std::sync::Arc;

use super::sparse_queue::SparseQueue;
use super::{Backend, Caller, Job, Origin, Request};
use crate::buffer::Outcome;
use crate::device::DeviceRuntime;
use crate::{Error, ErrorKind, Result};

/// The context of a kernel call: what it may use besides the job.
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
    #[inline]
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

    /// Runs a kernel that is made of several dense ops, and completes the job with its result. This is only for sparse
    /// keys, whose lane is used only by such kernels. A caller that waits runs the kernel itself, after the calls that
    /// were started before. A started call runs on the lane's thread.
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

    fn finish(&self, job: Job, kernel: Composed) {
        let result = kernel(self, job.request());
        job.complete_with(result);
    }
}
