//! A lane: one backend object of a group, and the order of its calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::sync::{Mutex, MutexGuard};

use crate::backend::{Backend, KernelContext, Origin, Request, SparseQueue};
use crate::{Error, ErrorKind, Phase, Result};

/// The right to give the lane's backend the next collective.
pub(crate) type Turn<'a> = MutexGuard<'a, u64>;

pub(crate) struct Lane {
    pub(crate) info: Arc<Origin>,
    pub(crate) backend: Arc<dyn Backend>,
    /// For the lane of a sparse key only: the started calls.
    pub(crate) queue: Option<SparseQueue>,
    /// The number of the next collective. The lock is held from numbering until the backend has the job, so that both
    /// have the same order.
    next: Mutex<u64>,
    next_p2p: AtomicU64,
}

impl Lane {
    pub(crate) fn new(info: Origin, backend: Arc<dyn Backend>) -> Lane {
        Lane { info: Arc::new(info), backend, queue: None, next: Mutex::new(0), next_p2p: AtomicU64::new(0) }
    }

    /// Makes the lane of a sparse key. Its kernels decide what it offers; the steps that they run are checked.
    pub(crate) fn sparse(info: Origin, backend: Arc<dyn Backend>) -> Lane {
        Lane { queue: Some(SparseQueue::default()), ..Lane::new(info, backend) }
    }

    /// The context for the lane's kernels.
    #[inline]
    pub(crate) fn context(&self, size: u32) -> KernelContext<'_> {
        KernelContext { info: &self.info, backend: &self.backend, size, queue: self.queue.as_ref() }
    }

    /// Waits for all jobs in flight, then says goodbye to the peers.
    pub(crate) fn shutdown(&self, deadline: Instant) -> Result {
        let drained = self.queue.as_ref().map_or(Ok(()), |queue| queue.wait_idle(deadline));
        drained.and(self.backend.shutdown(deadline))
    }

    /// Like [`Lane::shutdown`], after the last handle is gone: jobs that are in flight at the deadline go on.
    pub(crate) fn leave(&self, deadline: Instant) -> Result {
        let drained = self.queue.as_ref().map_or(Ok(()), |queue| queue.wait_idle(deadline));
        drained.and_then(|()| self.backend.leave(deadline))
    }

    /// Waits for the lane's turn, numbers the request, and returns the turn, which the caller holds until the backend
    /// has the job. Point-to-point ops take no turn.
    #[inline]
    pub(crate) fn take_turn(&self, request: &mut Request) -> Result<Option<Turn<'_>>> {
        if request.op.is_p2p() {
            request.seq = self.next_p2p.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let mut next = match self.next.try_lock() {
            Some(next) => next,
            None => self.next.try_lock_until(request.deadline()).ok_or_else(|| {
                let what = "another thread's collective on this group did not end in time";
                Error::new(ErrorKind::Timeout, what).phase(Phase::Validate).rejected()
            })?,
        };
        request.seq = *next;
        request.fingerprint.seq = *next as u32;
        *next += 1;
        Ok(Some(next))
    }
}
