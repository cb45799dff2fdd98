//! A job as whoever works at it sees it: a copy of what is to be done, so that the job itself can be ended by others while
//! a call of MPI does not come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Fingerprint, Job, Params};

use c10d_core::sync::{Mutex, MutexGuard};
use c10d_core::{DType, OpKind, Span};

/// What the memory of a job is used through: once it is closed, nobody does.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<bool>>);

impl Gate {
    /// Holds it open for as long as the guard lives; `None`: it is closed.
    pub(crate) fn pass(&self) -> Option<MutexGuard<'_, bool>> {
        Some(self.0.lock()).filter(|closed| !**closed)
    }

    pub(crate) fn close(&self) {
        *self.0.lock() = true;
    }
}

/// What is to be done.
pub(crate) struct Task {
    /// Its number in the ledger.
    pub(crate) id: u64,
    pub(crate) op: OpKind,
    pub(crate) params: Params,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
    /// When it must be over.
    pub(crate) deadline: Instant,
    pub(crate) dtype: Option<DType>,
    pub(crate) inputs: Vec<Span>,
    pub(crate) outputs: Vec<Span>,
    pub(crate) gate: Gate,
}

impl Task {
    /// The task of a job whose memory is used through this gate. Its time runs from here.
    pub(crate) fn of(job: &Job, id: u64, gate: &Gate) -> Task {
        let request = job.request();
        Task {
            id,
            op: request.op,
            params: request.params.clone(),
            fingerprint: request.fingerprint,
            timeout: request.timeout,
            deadline: request.deadline(),
            dtype: request.dtype(),
            inputs: request.inputs().to_vec(),
            outputs: request.outputs().to_vec(),
            gate: gate.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_stays_closed() {
        let gate = Gate::default();
        assert!(gate.pass().is_some() && gate.pass().is_some());
        gate.close();
        assert!(gate.pass().is_none() && gate.clone().pass().is_none());
    }
}
