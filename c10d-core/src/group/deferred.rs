//! The lane of a sparse dispatch key. The lane's backend object is made at the first call.
#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::sync::{Condvar, Mutex};

use super::Lane;
use crate::backend::{Backend, Capabilities, GroupInit, Job, Origin, Registry};
use crate::catalog::OpKind;
use crate::device::DeviceRuntime;
use crate::panics::caught;
use crate::process::spawn;
use crate::types::DispatchKey;
use crate::{Error, ErrorKind, Phase, Result};

/// Makes the lane of a sparse dispatch key. The dense ops of sparse calls run on a new backend object of the backend
/// `over`. So sparse calls and the program's dense calls may be in a different order on each rank. If `over` is `None`,
/// the group has no backend for the CPU. The error says why the lane cannot be made.
pub(super) fn sparse_lane(
    init: &GroupInit,
    registry: &Registry,
    key: DispatchKey,
    dense: &Lane,
    over: Option<&str>,
) -> Result<Lane, String> {
    let why = || format!("{key} needs a backend for the CPU, which this group does not have");
    let registration = registry.backend(over.ok_or_else(why)?).map_err(|e| e.report().what.clone())?;
    let backend = Deferred {
        shared: Arc::new(Shared {
            made: OnceLock::new(),
            state: Mutex::new(Progress::Not(Box::new(init.anew()))),
            news: Condvar::new(),
        }),
        backend: registration.name,
        key,
        device: dense.backend.device(),
    };
    let Origin { group, rank, backend: name, global } = &*dense.info;
    let info = Origin { group: group.clone(), rank: *rank, backend: name, global: global.clone() };
    Ok(Lane::sparse(info, Arc::new(backend)))
}

/// A backend that is made when it gets its first job.
struct Deferred {
    shared: Arc<Shared>,
    backend: &'static str,
    key: DispatchKey,
    /// The runtime of the device whose sparse tensors the lane serves.
    device: Option<Arc<dyn DeviceRuntime>>,
}

struct Shared {
    made: OnceLock<Arc<dyn Backend>>,
    state: Mutex<Progress>,
    news: Condvar,
}

enum Progress {
    /// The backend is not made yet. The value contains the data from which the backend is made.
    Not(Box<GroupInit>),
    Making,
    Over(Result),
}

impl Deferred {
    /// Returns the backend. The first call makes the backend. Returns an error if the backend cannot be made, is not
    /// made by the deadline, or was aborted before it was made.
    fn made(&self, deadline: Instant) -> Result<&Arc<dyn Backend>> {
        if let Some(backend) = self.shared.made.get() {
            return Ok(backend);
        }
        let mut state = self.shared.state.lock();
        if let Progress::Not(_) = *state
            && let Progress::Not(mut init) = std::mem::replace(&mut *state, Progress::Making)
        {
            init.deadline = deadline;
            let (shared, backend, key) = (self.shared.clone(), self.backend, self.key);
            // A separate thread makes the backend, so that an abort can end the waiting job at once.
            if let Err(e) = spawn("c10d sparse lane", move || shared.make(&init, backend, key)) {
                *state = Progress::Over(Err(e));
            }
        }
        while let Progress::Making = *state {
            let late = self.shared.news.wait_until(&mut state, deadline).timed_out();
            if late && matches!(*state, Progress::Making) {
                let what = "the ranks did not connect for their first sparse call in time";
                return Err(Error::new(ErrorKind::Timeout, what).phase(Phase::Connect));
            }
        }
        if let Progress::Over(Err(e)) = &*state {
            return Err(e.clone());
        }
        let what = "the backend of a sparse lane does not exist although it was made";
        let lost = || Error::new(ErrorKind::Internal, what);
        self.shared.made.get().ok_or_else(lost)
    }
}

impl Shared {
    fn make(&self, init: &GroupInit, backend: &str, key: DispatchKey) {
        let made = caught(|| init.own_backend(backend, key.name())).unwrap_or_else(|words| {
            Err(Error::new(ErrorKind::Internal, format!("the backend panicked when it was made: {words}")))
        });
        let mut state = self.state.lock();
        // The lane was aborted while the backend was made.
        if let Progress::Over(Err(cause)) = &*state {
            if let Ok(backend) = made {
                backend.abort(cause);
            }
            return;
        }
        *state = Progress::Over(made.map(|backend| drop(self.made.set(backend))));
        drop(state);
        self.news.notify_all();
    }
}

// SAFETY: this code does not use spans. It passes each job to the backend that was made, or completes the job with an
// error, at the latest at the job's deadline or when the lane is aborted.
unsafe impl Backend for Deferred {
    fn name(&self) -> &'static str {
        self.backend
    }

    /// Core ignores this value for a sparse lane: for each dense op of a sparse call, `submit` checks whether the
    /// backend offers the op.
    fn capabilities(&self) -> &Capabilities {
        self.shared.made.get().map_or(&Capabilities::ALL, |backend| backend.capabilities())
    }

    fn submit(&self, job: Job) {
        let request = job.request();
        let backend = match self.made(request.deadline()) {
            Ok(backend) => backend,
            Err(e) => return job.complete(Err(e)),
        };
        let reduce = request.params.reduce;
        if request.dtype().is_some_and(|dtype| !backend.capabilities_on(request.key).offers(request.op, dtype, reduce))
        {
            let (backend, op) = (self.backend, request.op);
            let what = format!("backend {backend} does not offer {op}, but ops on sparse tensors need {op}");
            return job.complete(Err(Error::unsupported(what)));
        }
        backend.submit(job);
    }

    fn abort(&self, cause: &Error) {
        let mut state = self.shared.state.lock();
        if let Progress::Not(_) | Progress::Making = *state {
            *state = Progress::Over(Err(cause.clone()));
        }
        drop(state);
        self.shared.news.notify_all();
        if let Some(backend) = self.shared.made.get() {
            backend.abort(cause);
        }
    }

    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.shared.made.get()?.waits()
    }

    fn refused(&self, op: OpKind, error: &Error) {
        if let Some(backend) = self.shared.made.get() {
            backend.refused(op, error);
        }
    }

    fn lost(&self) -> Vec<u32> {
        self.shared.made.get().map_or_else(Vec::new, |backend| backend.lost())
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        self.shared.made.get().map_or(Ok(()), |backend| backend.shutdown(deadline))
    }

    fn leave(&self, deadline: Instant) -> Result {
        self.shared.made.get().map_or(Ok(()), |backend| backend.leave(deadline))
    }

    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        self.device.clone()
    }

    fn bytes_sent(&self) -> Option<u64> {
        self.shared.made.get().map_or(Some(0), |backend| backend.bytes_sent())
    }
}
