//! The list of a backend's communicators, which is needed to abort them.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::panics::contain;
use c10d_core::sync::Mutex;

use crate::cuda::CudaApi;
use crate::nccl::{Comm, NcclApi, NcclResult};

/// The existing communicators of a backend.
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

    /// Removes a communicator that is going to be destroyed. Returns `false` if it is being aborted.
    pub(crate) fn remove(&self, comm: Comm) -> bool {
        let mut alive = self.alive.lock();
        let at = alive.iter().position(|c| *c == comm);
        at.map(|at| alive.swap_remove(at)).is_some()
    }

    /// Aborts all communicators. This may never return. The caller must first let the job table forbid new calls, and
    /// wait for the running call.
    pub(crate) fn abort(&self) {
        let comms = std::mem::take(&mut *self.alive.lock());
        if comms.is_empty() {
            return;
        }
        if let Err(e) = self.cuda.enter_own(self.device) {
            contain("a tracing subscriber", || tracing::error!(target: "c10d", "{e}"));
        }
        // Several communicators are aborted in one NCCL group, so that none waits for another.
        let grouped = comms.len() > 1 && self.nccl.group_start() == NcclResult::SUCCESS;
        for comm in comms {
            // SAFETY: the communicator exists until now, and nothing uses it, except a call that has run for so long
            // that it is assumed never to return.
            self.report("ncclCommAbort", unsafe { self.nccl.abort(comm) });
        }
        if grouped {
            // In a group, NCCL may delay the aborts until this call.
            self.report("ncclGroupEnd", self.nccl.group_end());
        }
    }

    /// Reports a call that failed.
    fn report(&self, call: &str, result: NcclResult) {
        if !result.is_accepted() {
            let why = self.nccl.error_string(result);
            contain("a tracing subscriber", || tracing::warn!(target: "c10d", "{call}: {why}"));
        }
    }
}
