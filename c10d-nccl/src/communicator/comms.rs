//! The communicators of one backend, as whoever has to end them in an emergency sees them.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::panics::contain;
use c10d_core::sync::Mutex;

use crate::cuda::CudaApi;
use crate::nccl::{Comm, NcclApi, NcclResult};

/// All communicators that were made and not given up.
pub(crate) struct Comms {
    nccl: Arc<dyn NcclApi>,
    cuda: Arc<dyn CudaApi>,
    device: u16,
    alive: Mutex<Vec<Comm>>,
}

impl Comms {
    pub(crate) fn new(nccl: Arc<dyn NcclApi>, cuda: Arc<dyn CudaApi>, device: u16) -> Comms {
        Comms { nccl, cuda, device, alive: Mutex::default() }
    }

    pub(crate) fn add(&self, comm: Comm) {
        self.alive.lock().push(comm);
    }

    /// Takes a communicator out, to be given up in order; `false`: it is being aborted.
    pub(crate) fn remove(&self, comm: Comm) -> bool {
        let mut alive = self.alive.lock();
        let at = alive.iter().position(|c| *c == comm);
        at.map(|at| alive.swap_remove(at)).is_some()
    }

    /// Ends what all communicators are at. That may never come back. The job table lets no new call begin, and was waited for to
    /// be quiet.
    pub(crate) fn abort(&self) {
        let comms = std::mem::take(&mut *self.alive.lock());
        if comms.is_empty() {
            return;
        }
        if let Err(e) = self.cuda.enter_own(self.device) {
            contain("a tracing subscriber", || tracing::error!(target: "c10d", "{e}"));
        }
        // Several in one group, so that none waits for another's end.
        let grouped = comms.len() > 1 && self.nccl.group_start() == NcclResult::SUCCESS;
        for comm in comms {
            // SAFETY: alive until now, and out of everybody's hands, but for a call that has not come back for so long that
            // it is taken for one that never does.
            let result = unsafe { self.nccl.abort(comm) };
            if result != NcclResult::SUCCESS && result != NcclResult::IN_PROGRESS {
                let why = self.nccl.error_string(result);
                contain("a tracing subscriber", || tracing::warn!(target: "c10d", "ncclCommAbort: {why}"));
            }
        }
        if grouped {
            self.nccl.group_end();
        }
    }
}
