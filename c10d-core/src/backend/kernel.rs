//! The context in which a kernel runs.

use std::sync::Arc;

use super::sparse_queue::SparseQueue;
use super::{Backend, Caller, Job, Origin, Request};
use crate::buffer::Outcome;
use crate::device::DeviceRuntime;
use crate::{Error, ErrorKind, Result};

/// The context of a kernel call: the data that a kernel may use besides the job.
pub struct KernelContext<'a> {
    pub(crate) info: &'a Arc<Origin>,
    pub(crate) backend: &'a Arc<dyn Backend>,
    pub(crate) size: u32,
    /// The queue in which started calls run. `None` if the call has a dense dispatch key, or if the queue's thread runs
    /// the call.
    pub(crate) queue: Option<&'a SparseQueue>,
}

/// A kernel that consists of several dense ops. The kernel runs each op by [`KernelContext::run_step`], which waits for
/// the op.
pub type Composed = fn(&KernelContext<'_>, &Request) -> Result<Outcome>;

impl KernelContext<'_> {
    /// Returns the backend that serves the job's dispatch key in the job's group.
    #[inline]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        self.backend
    }

    /// Returns the runtime of the devices of the job's dispatch key.
    ///
    /// # Errors
    /// `Unsupported` if the backend has no runtime, because the job's dispatch key is for host memory.
    pub fn device(&self) -> Result<Arc<dyn DeviceRuntime>> {
        let why = || {
            format!("backend {} has no device runtime, so device tensors cannot be read through it", self.info.backend)
        };
        self.backend.device().ok_or_else(|| Error::unsupported(why()))
    }

    /// Returns this rank.
    pub fn rank(&self) -> u32 {
        self.info.rank
    }

    /// Returns the number of ranks of the group.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Runs a kernel that consists of several dense ops, and completes the job with its result. If the caller waits,
    /// the kernel runs on the caller's thread, after all earlier started calls of the lane. The kernel of a started
    /// call runs on the thread of the lane's queue. Only the lanes of sparse dispatch keys have such a queue. For a
    /// dense dispatch key the job ends with an error.
    pub fn compose(self, job: Job, kernel: Composed) {
        match self.queue {
            Some(queue) if job.request().caller == Caller::Continues => queue.push(job, kernel, &self),
            Some(queue) => match queue.wait_idle(job.request().deadline()) {
                Ok(()) => self.finish(job, kernel),
                Err(e) => job.complete(Err(e)),
            },
            None => {
                let what = "a kernel that consists of several ops is registered for a dense key; such kernels are \
                    only possible for sparse keys";
                job.complete(Err(Error::new(ErrorKind::Internal, what)));
            }
        }
    }

    fn finish(&self, job: Job, kernel: Composed) {
        let result = kernel(self, job.request());
        job.complete_with(result);
    }
}
