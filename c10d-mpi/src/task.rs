//! A job as whoever works at it sees it: a copy of what is to be done, so that the job itself can be ended by others while
//! a call of MPI does not come back.

use std::sync::Arc;
use std::time::Duration;

use c10d_core::backend::{Fingerprint, Params, Request};
use c10d_core::sync::{Mutex, MutexGuard};
use c10d_core::{DType, OpKind, Span};
use smallvec::SmallVec;

/// What the memory of a job is used through: once it is closed, nobody does.
#[derive(Clone)]
pub(crate) struct Gate(Option<Arc<Mutex<bool>>>);

impl Gate {
    /// One that others may close.
    pub(crate) fn new() -> Gate {
        Gate(Some(Arc::default()))
    }

    /// One that nobody closes: whoever ends the job is through with its memory.
    pub(crate) const OPEN: Gate = Gate(None);

    /// Holds it open for as long as the pass lives; `None`: it is closed.
    #[inline]
    pub(crate) fn pass(&self) -> Option<Pass<'_>> {
        let Some(closed) = &self.0 else { return Some(Pass(None)) };
        Some(closed.lock()).filter(|closed| !**closed).map(|closed| Pass(Some(closed)))
    }

    pub(crate) fn close(&self) {
        if let Some(closed) = &self.0 {
            *closed.lock() = true;
        }
    }
}

/// Keeps a gate open.
pub(crate) struct Pass<'a>(#[expect(dead_code)] Option<MutexGuard<'a, bool>>);

/// What is to be done.
pub(crate) struct Task {
    pub(crate) op: OpKind,
    pub(crate) params: Params,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
    pub(crate) dtype: Option<DType>,
    pub(crate) inputs: SmallVec<[Span; 1]>,
    pub(crate) outputs: SmallVec<[Span; 1]>,
    pub(crate) gate: Gate,
}

impl Task {
    /// What this asks for, whose memory is used through this gate.
    pub(crate) fn of(request: &Request, gate: Gate) -> Task {
        Task {
            op: request.op,
            params: request.params.clone(),
            fingerprint: request.fingerprint,
            timeout: request.timeout,
            dtype: request.dtype(),
            inputs: request.inputs().into(),
            outputs: request.outputs().into(),
            gate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_stays_closed() {
        let gate = Gate::new();
        assert!(gate.pass().is_some() && gate.pass().is_some());
        gate.close();
        assert!(gate.pass().is_none() && gate.clone().pass().is_none());
        Gate::OPEN.close();
        assert!(Gate::OPEN.pass().is_some());
    }
}
