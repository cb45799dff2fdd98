//! An op on its way through the pipeline: what it is, and who may still complete it.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::backend::{Job, Outer};
use crate::buffer::{Outcome, Span};
use crate::ops::{OpKind, Params, Shape};
use crate::types::DType;
use crate::{Error, Result};

/// A copy of what a request says, so that nobody looks at the request when its job may be gone.
pub(super) struct Call {
    pub(super) op: OpKind,
    pub(super) params: Params,
    pub(super) dtype: Option<DType>,
    pub(super) inputs: Vec<Span>,
    pub(super) outputs: Vec<Span>,
    pub(super) output_row: usize,
    pub(super) stream: u64,
    pub(super) outer: Outer,
    /// Whether the op itself owns the device memory.
    pub(super) owns: bool,
}

impl Call {
    /// Elements of each input and output; of each rank's block, where one tensor has them for all.
    pub(super) fn counts(&self, world: usize) -> (Vec<usize>, Vec<usize>) {
        let counts = |spans: &[Span], splits: &[usize]| match (spans, self.op.row().shape) {
            ([tensor], Shape::ExchangeFlat) if splits.is_empty() => vec![tensor.count() / world; world],
            (_, Shape::ExchangeFlat) => splits.to_vec(),
            _ => spans.iter().map(Span::count).collect(),
        };
        (counts(&self.inputs, self.params.input_splits()), counts(&self.outputs, self.params.output_splits()))
    }
}

/// An op, shared by the thread that does it and the watchdog.
pub(super) struct Slot {
    pub(super) call: Call,
    at_cpu: AtomicBool,
    state: Mutex<State>,
}

struct State {
    job: Option<Job>,
    hold: Hold,
}

/// What the device may still do to the op's memory if the op is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing: it was not given anything.
    Nothing,
    /// It has memory that lives as long as the op is not over.
    Borrowed,
    /// It has memory that stays until it is released.
    Retained,
}

impl Slot {
    pub(super) fn new(job: Job) -> Slot {
        let request = job.request();
        let call = Call {
            op: request.op,
            params: request.params.clone(),
            dtype: request.dtype(),
            inputs: request.inputs().to_vec(),
            outputs: request.outputs().to_vec(),
            output_row: request.output_row(),
            stream: request.stream,
            outer: Outer::of(request),
            owns: job.owns_buffers(),
        };
        Slot { call, at_cpu: AtomicBool::new(false), state: Mutex::new(State { job: Some(job), hold: Hold::Nothing }) }
    }

    /// Says what the device is about to hold.
    pub(super) fn hold(&self, hold: Hold) {
        self.state.lock().hold = hold;
    }

    /// Whether the CPU backend has a step of the op.
    pub(super) fn at_cpu(&self) -> bool {
        self.at_cpu.load(Ordering::Relaxed)
    }

    /// Says so.
    pub(super) fn set_at_cpu(&self, yes: bool) {
        self.at_cpu.store(yes, Ordering::Relaxed);
    }

    /// Runs `begin` unless the op was given up; nobody gives it up meanwhile. `false`: it was.
    pub(super) fn if_open(&self, begin: impl FnOnce()) -> bool {
        let state = self.state.lock();
        let open = state.job.is_some();
        if open {
            begin();
        }
        open
    }

    /// Completes the op, if nobody has. The device is through with its memory.
    pub(super) fn finish(&self, result: Result<Outcome>) {
        let job = self.state.lock().job.take();
        if let Some(job) = job {
            job.complete_with(result);
        }
    }

    /// Completes the op with an error although the device may not be through with its memory; refused (`false`) where
    /// that memory would go back to a borrower and could not be retained.
    pub(super) fn give_up(&self, error: &Error) -> bool {
        let (job, hold) = {
            let mut state = self.state.lock();
            if state.hold == Hold::Borrowed && !self.call.owns {
                return state.job.is_none();
            }
            (state.job.take(), state.hold)
        };
        if let Some(job) = job {
            match hold {
                Hold::Nothing => job.complete(Err(error.clone())),
                _ => {
                    if let Err(job) = job.fail_keeping(error.clone()) {
                        job.complete(Err(error.clone()));
                    }
                }
            }
        }
        true
    }
}
