//! Lanes. A lane is one backend object of a group, with the order of its calls.

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
    /// The queue of started calls, which a thread of core runs in order. Only the lane of a sparse dispatch key has
    /// one.
    pub(crate) queue: Option<SparseQueue>,
    /// The number of the next collective. The thread that numbers a call holds the lock until the backend has the job
    /// of this call. So the backend gets calls in the order of their numbers.
    next: Mutex<u64>,
    next_p2p: AtomicU64,
}

impl Lane {
    pub(crate) fn new(info: Origin, backend: Arc<dyn Backend>) -> Lane {
        Lane { info: Arc::new(info), backend, queue: None, next: Mutex::new(0), next_p2p: AtomicU64::new(0) }
    }

    /// Makes the lane of a sparse dispatch key. Core does not check whether the lane's backend offers the sparse op:
    /// the kernel runs dense ops on the backend, and each of these is checked when it runs.
    pub(crate) fn sparse(info: Origin, backend: Arc<dyn Backend>) -> Lane {
        Lane { queue: Some(SparseQueue::default()), ..Lane::new(info, backend) }
    }

    /// Returns the context for the lane's kernels.
    #[inline]
    pub(crate) fn context(&self, size: u32) -> KernelContext<'_> {
        KernelContext { info: &self.info, backend: &self.backend, size, queue: self.queue.as_ref() }
    }

    /// Waits for all jobs in flight, and then tells the peers that this rank leaves.
    pub(crate) fn shutdown(&self, deadline: Instant) -> Result {
        let drained = self.queue.as_ref().map_or(Ok(()), |queue| queue.wait_idle(deadline));
        drained.and(self.backend.shutdown(deadline))
    }

    /// Like [`Lane::shutdown`], for a group whose last handle was dropped. Jobs that are in flight at the deadline
    /// continue.
    pub(crate) fn leave(&self, deadline: Instant) -> Result {
        let drained = self.queue.as_ref().map_or(Ok(()), |queue| queue.wait_idle(deadline));
        drained.and_then(|()| self.backend.leave(deadline))
    }

    /// Waits for the lane's turn, numbers the request, and returns the turn. The caller keeps the turn until the
    /// backend has the job. A point-to-point op is only numbered: it takes no turn.
    #[inline]
    pub(crate) fn take_turn(&self, request: &mut Request) -> Result<Option<Turn<'_>>> {
        if request.op.is_p2p() {
            request.seq = self.next_p2p.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let mut next = match self.next.try_lock() {
            Some(next) => next,
            None => self.next.try_lock_until(request.deadline()).ok_or_else(|| {
                let what = "this collective reached its timeout while it waited for its turn: the backend has not yet \
                    accepted another thread's collective on this group";
                Error::new(ErrorKind::Timeout, what).phase(Phase::Validate).rejected()
            })?,
        };
        request.seq = *next;
        request.fingerprint.seq = *next as u32;
        *next += 1;
        Ok(Some(next))
    }
}
