//! A lane: one backend object of a group, and the order of the calls it gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::Line;
use crate::backend::Backend;
use crate::job::Request;
use crate::{Error, ErrorKind, Phase, Result};

/// What every error of a lane is told.
#[derive(Clone, Debug)]
pub(crate) struct LaneInfo {
    pub(crate) group: Arc<str>,
    pub(crate) rank: u32,
    pub(crate) backend: &'static str,
    /// This group's ranks in the numbering of the first group; `None` in the first group itself.
    pub(crate) global: Option<Arc<[u32]>>,
}

impl LaneInfo {
    /// Adds group, rank, backend and global ranks where they are missing.
    pub(crate) fn describe(&self, error: &mut Error) {
        let report = error.report_mut();
        report.group.get_or_insert_with(|| self.group.clone());
        report.rank.get_or_insert(self.rank);
        if report.backend.is_empty() {
            report.backend = self.backend;
        }
        if let (Some(global), true) = (&self.global, report.guilty_global.is_empty()) {
            report.guilty_global = report.guilty.iter().filter_map(|r| global.get(*r as usize).copied()).collect();
        }
    }

    pub(crate) fn described(&self, mut error: Error) -> Error {
        self.describe(&mut error);
        error
    }
}

/// The right to give the lane's backend the next collective.
pub(crate) type Turn<'a> = MutexGuard<'a, u64>;

pub(crate) struct Lane {
    pub(crate) info: Arc<LaneInfo>,
    pub(crate) backend: Arc<dyn Backend>,
    /// Of a sparse key's lane alone: the calls that were started.
    pub(crate) line: Option<Line>,
    /// The number of the next collective. Held from numbering until the backend has the job, so that both have one order.
    next: Mutex<u64>,
    next_p2p: AtomicU64,
}

impl Lane {
    pub(crate) fn new(info: LaneInfo, backend: Arc<dyn Backend>) -> Lane {
        Lane { info: Arc::new(info), backend, line: None, next: Mutex::new(0), next_p2p: AtomicU64::new(0) }
    }

    /// The lane of a sparse key. What it offers is its kernels' matter; the steps that they run are checked.
    pub(crate) fn sparse(info: LaneInfo, backend: Arc<dyn Backend>) -> Lane {
        Lane { line: Some(Line::default()), ..Lane::new(info, backend) }
    }

    /// Waits for what is in flight, then leaves the peers.
    pub(crate) fn shutdown(&self, deadline: Instant) -> Result {
        let drained = self.line.as_ref().map_or(Ok(()), |line| line.wait_idle(deadline));
        drained.and(self.backend.shutdown(deadline))
    }

    /// Waits for the lane's turn, numbers the request, and gives the turn, to be held until the backend has the job.
    /// Point-to-point ops take no turn.
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
