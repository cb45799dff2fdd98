//! A copy of a job's description for the thread that works on the job. With this copy, another thread can complete the
//! job while the working thread is blocked in a function of MPI.

use std::sync::Arc;
use std::time::Duration;

use c10d_core::backend::{Fingerprint, Params, Request};
use c10d_core::sync::{Mutex, MutexGuard};
use c10d_core::{DType, OpKind, Span};
use smallvec::SmallVec;

/// A gate in front of a job's memory. Once it is closed, no thread uses the memory.
#[derive(Clone)]
pub(crate) struct Gate(Option<Arc<Mutex<bool>>>);

impl Gate {
    /// A gate that other threads may close.
    pub(crate) fn new() -> Gate {
        Gate(Some(Arc::default()))
    }

    /// A gate that is never closed, for a job that only its working thread completes.
    pub(crate) const OPEN: Gate = Gate(None);

    /// Returns a pass, which keeps the gate open as long as it exists, or `None` if the gate is closed.
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
    /// Makes the task of a request. The memory of the request is used only through this gate.
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
