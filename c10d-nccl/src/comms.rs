//! The communicators of one backend, as whoever has to end them in an emergency sees them.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::cuda::CudaApi;
use crate::nccl::{Comm, NcclApi, NcclResult};

/// How long an abort may take before the communicators are declared lost.
const ABORT: Duration = Duration::from_secs(5);

/// All communicators that were made and not given up.
pub(crate) struct Comms {
    nccl: Arc<dyn NcclApi>,
    cuda: Arc<dyn CudaApi>,
    device: u16,
    alive: Mutex<Vec<Comm>>,
    aborting: AtomicBool,
}

/// An abort on its way.
#[derive(Default)]
pub(crate) struct Abort {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Abort {
    /// Waits for its end; `true`: it came.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let until = std::time::Instant::now() + patience;
        let mut done = self.done.lock();
        while !*done {
            if self.changed.wait_until(&mut done, until).timed_out() {
                break;
            }
        }
        *done
    }

    fn end(&self) {
        *self.done.lock() = true;
        self.changed.notify_all();
    }
}

impl Comms {
    pub(crate) fn new(nccl: Arc<dyn NcclApi>, cuda: Arc<dyn CudaApi>, device: u16) -> Comms {
        Comms { nccl, cuda, device, alive: Mutex::default(), aborting: AtomicBool::new(false) }
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

    /// Ends what all communicators are at, on a thread of its own, since that may never come back. `then` is run when it
    /// has.
    pub(crate) fn abort(self: &Arc<Self>, then: impl FnOnce() + Send + 'static) -> Arc<Abort> {
        let abort = Arc::new(Abort::default());
        if self.aborting.swap(true, Ordering::AcqRel) {
            return abort;
        }
        let (this, ended) = (self.clone(), abort.clone());
        let run = move || {
            this.abort_all();
            ended.end();
            then();
        };
        if std::thread::Builder::new().name("c10d-nccl-abort".to_owned()).spawn(run).is_err() {
            tracing::error!(target: "c10d", "no thread for ncclCommAbort; communicators and buffers are left behind");
        }
        abort
    }

    fn abort_all(&self) {
        let comms = std::mem::take(&mut *self.alive.lock());
        if comms.is_empty() {
            return;
        }
        if let Err(e) = self.cuda.enter_own(self.device) {
            tracing::error!(target: "c10d", "{e}");
        }
        // Several in one group, so that none waits for another's end.
        let grouped = comms.len() > 1 && self.nccl.group_start() == NcclResult::SUCCESS;
        for comm in comms {
            // SAFETY: alive until now, and out of everybody's hands: the board lets no new call begin.
            let result = unsafe { self.nccl.abort(comm) };
            if result != NcclResult::SUCCESS && result != NcclResult::IN_PROGRESS {
                tracing::warn!(target: "c10d", "ncclCommAbort: {}", self.nccl.error_string(result));
            }
        }
        if grouped {
            self.nccl.group_end();
        }
    }

    /// Waits for the rest of an abort's time; says so where it does not end.
    pub(crate) fn see_to_end(&self, abort: &Abort) {
        if !abort.wait(ABORT) {
            let what = "ncclCommAbort does not come back; the communicators are lost, their memory is left behind";
            tracing::error!(target: "c10d", "{what}");
        }
    }
}
