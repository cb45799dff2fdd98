//! A staged op that has not ended, and the right to complete it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::sync::{Condvar, Mutex};

use crate::backend::{Job, JobId, Outer};
use crate::buffer::{Outcome, Span};
use crate::catalog::{OpKind, Shape};
use crate::options::Params;
use crate::types::DType;
use crate::{Error, Result};

/// A copy of a request's fields that outlives the job.
pub(super) struct Call {
    pub(super) op: OpKind,
    pub(super) params: Params,
    pub(super) dtype: Option<DType>,
    pub(super) inputs: Vec<Span>,
    pub(super) outputs: Vec<Span>,
    pub(super) output_row: usize,
    pub(super) stream: u64,
    pub(super) outer: Outer,
    pub(super) owns: bool,
}

impl Call {
    /// Returns the number of elements of each input and of each output. A tensor with one block per rank counts as a
    /// list of blocks.
    pub(super) fn counts(&self, world: usize) -> (Vec<usize>, Vec<usize>) {
        let counts = |spans: &[Span], splits: &[usize]| match (spans, self.op.row().shape) {
            ([tensor], Shape::ExchangeFlat) if splits.is_empty() => vec![tensor.count() / world; world],
            (_, Shape::ExchangeFlat) => splits.to_vec(),
            _ => spans.iter().map(Span::count).collect(),
        };
        (counts(&self.inputs, self.params.input_splits()), counts(&self.outputs, self.params.output_splits()))
    }
}

/// An op, shared by the thread that runs it and the watchdog.
pub(super) struct Slot {
    pub(super) id: JobId,
    pub(super) call: Call,
    at_cpu: AtomicBool,
    state: Mutex<SlotState>,
    answered: Condvar,
}

struct SlotState {
    job: Option<Job>,
    hold: Hold,
    ask: Ask,
}

/// The state of a request to cancel the op.
enum Ask {
    Nobody,
    Asked,
    /// The answer: the job, `None` if it is too late to cancel the op, or an error.
    Answered(Result<Option<Job>>),
}

/// Which memory of the op the device may use after the op was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// None: the device was given no memory.
    Nothing,
    /// Memory that the device could not retain: it stays valid only until the op is done.
    Borrowed,
    /// Memory that the device retains: it stays valid until this backend releases it.
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
        let id = job.id();
        let state = Mutex::new(SlotState { job: Some(job), hold: Hold::Nothing, ask: Ask::Nobody });
        Slot { id, call, at_cpu: AtomicBool::new(false), state, answered: Condvar::new() }
    }

    /// Records which memory the device will be given.
    pub(super) fn hold(&self, hold: Hold) {
        self.state.lock().hold = hold;
    }

    /// Returns whether a step of the op is at the CPU backend.
    pub(super) fn at_cpu(&self) -> bool {
        self.at_cpu.load(Ordering::Relaxed)
    }

    /// Records whether a step of the op is at the CPU backend.
    pub(super) fn set_at_cpu(&self, yes: bool) {
        self.at_cpu.store(yes, Ordering::Relaxed);
    }

    /// If the op is open (not completed and not given up), runs `begin` and returns `true`. Otherwise returns `false`.
    /// The op cannot be given up while `begin` runs.
    pub(super) fn if_open(&self, begin: impl FnOnce()) -> bool {
        let state = self.state.lock();
        let open = state.job.is_some();
        if open {
            begin();
        }
        open
    }

    /// Requests that the op is cancelled.
    pub(super) fn ask(&self) {
        let mut state = self.state.lock();
        state.ask = if state.job.is_some() { Ask::Asked } else { Ask::Answered(Ok(None)) };
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self.state.lock().ask, Ask::Asked)
    }

    /// Answers the request with an error, or with "too late".
    pub(super) fn refuse(&self, why: Result) {
        self.answer(&mut self.state.lock(), why.map(|()| None));
    }

    /// Answers the request with the job. If no thread waits for the answer, the op ends as cancelled. The device must
    /// have finished with the memory.
    pub(super) fn give_back(&self) {
        let mut state = self.state.lock();
        let job = state.job.take();
        if matches!(state.ask, Ask::Asked) {
            self.answer(&mut state, Ok(job));
        } else if let Some(job) = job {
            drop(state);
            job.complete_cancelled();
        }
    }

    /// Waits for the answer until `until`. `None` means "too late". After a wait without an answer, a later `give_back`
    /// ends the op as cancelled.
    pub(super) fn answer_by(&self, until: Instant) -> Result<Option<Job>> {
        let mut state = self.state.lock();
        while matches!(state.ask, Ask::Asked) && !self.answered.wait_until(&mut state, until).timed_out() {}
        match std::mem::replace(&mut state.ask, Ask::Nobody) {
            Ask::Answered(answer) => answer,
            _ => Ok(None),
        }
    }

    fn answer(&self, state: &mut SlotState, answer: Result<Option<Job>>) {
        if matches!(state.ask, Ask::Asked) {
            state.ask = Ask::Answered(answer);
            self.answered.notify_all();
        }
    }

    /// Takes the job, to end it. Answers a request to cancel it with "too late".
    fn take(&self, state: &mut SlotState) -> Option<Job> {
        self.answer(state, Ok(None));
        state.job.take()
    }

    /// Completes the op, unless that was done before. The device must have finished with its memory.
    pub(super) fn finish(&self, result: Result<Outcome>) {
        let job = self.take(&mut self.state.lock());
        if let Some(job) = job {
            job.complete_with(result);
        }
    }

    /// Completes the op with an error although the device may still use its memory. Does nothing if the op has borrowed
    /// memory that the device could not retain. Returns whether the op is completed.
    pub(super) fn give_up(&self, error: &Error) -> bool {
        let (job, hold) = {
            let mut state = self.state.lock();
            if state.hold == Hold::Borrowed && !self.call.owns {
                return state.job.is_none();
            }
            (self.take(&mut state), state.hold)
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
