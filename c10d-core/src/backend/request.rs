//! Requests: validated and numbered calls, as backends get them.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Fingerprint, Origin};
use crate::buffer::{CooLayout, Sink, Span};
use crate::catalog::OpKind;
use crate::options::Params;
use crate::store::{FOREVER, deadline_after};
use crate::types::{DType, DispatchKey, Element, Identity};
use crate::{Error, ErrorKind};

/// If a call reports a mismatch in another call, this text precedes the name of the reporting call in the error.
const FOUND: &str = "; found in ";

/// Whether the thread that submits the op waits for it. If so, the backend may run the whole op inside `submit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The caller waits (in PyTorch: `asyncOp = false`).
    Waits,
    /// The caller does not wait now, and may wait later.
    Continues,
}

/// A validated call. Backends do not check it again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Request {
    /// The op.
    pub op: OpKind,
    /// The dispatch key of the call's buffers.
    pub key: DispatchKey,
    /// Whether the caller waits.
    pub caller: Caller,
    /// The sequence number of a collective in its lane. A point-to-point call has a number that only this rank uses.
    pub seq: u64,
    /// The properties of the call on which all ranks must agree.
    pub fingerprint: Fingerprint,
    /// How long the op may take.
    pub timeout: Duration,
    /// The scalar arguments.
    pub params: Params,
    /// The device stream on which the op runs. 0 means the device's default stream, or no stream.
    pub stream: u64,
    pub(crate) spans: Sink,
    pub(crate) deadline: OnceLock<Instant>,
}

impl Request {
    #[inline]
    pub(crate) fn new(op: OpKind, caller: Caller, params: Params, timeout: Duration) -> Request {
        Request {
            op,
            key: DispatchKey::Cpu,
            caller,
            seq: 0,
            fingerprint: Fingerprint::default(),
            timeout,
            stream: params.stream,
            params,
            spans: Sink::default(),
            deadline: OnceLock::new(),
        }
    }

    /// Returns the tensors that the op reads; empty for in-place ops on dense tensors.
    #[inline]
    pub fn inputs(&self) -> &[Span] {
        &self.spans.inputs
    }

    /// Returns the tensors that the op writes. In-place ops read them, too.
    #[inline]
    pub fn outputs(&self) -> &[Span] {
        &self.spans.outputs
    }

    /// If the outputs are a list of lists, returns the length of each list; else 0. The lists are stored one after the
    /// other.
    pub fn output_row(&self) -> usize {
        self.spans.output_row
    }

    /// Returns the element type of the tensors, or of the values of a sparse tensor; `None` for barriers.
    #[inline]
    pub fn dtype(&self) -> Option<DType> {
        self.outputs().first().or(self.inputs().first()).map(Span::dtype)
    }

    /// Returns the identity of the elements' type, if the type is not a [`DType`]. Such elements are sent as bytes.
    #[inline]
    pub fn identity(&self) -> Option<Identity> {
        self.outputs().first().or(self.inputs().first()).and_then(Span::identity)
    }

    /// Returns the layout of the sparse tensor, for a call that has one. The inputs are then the values and the
    /// indices.
    #[inline]
    pub fn sparse(&self) -> Option<&CooLayout> {
        self.spans.sparse.as_deref().map(|call| &call.layout)
    }

    /// Returns the elements of an input in host memory. `None` if there is no such input, or if it has another type or
    /// is not in host memory.
    pub fn input<T: Element>(&self, i: usize) -> Option<&[T]> {
        let span = self.inputs().get(i).filter(|s| s.dtype() == T::DTYPE)?;
        let base = span.host_ptr()?.cast::<T>();
        if span.count() == 0 {
            return Some(&[]);
        }
        // SAFETY: type, length, alignment and address were validated. The memory stays allocated, and no code writes to
        // inputs, until the job is completed. The request is not used after that.
        Some(unsafe { std::slice::from_raw_parts(base, span.count()) })
    }

    /// Returns the time by which the op must be done. The clock is read at the first call, so an op that never waits
    /// does not read it.
    #[inline]
    pub fn deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| deadline_after(self.timeout))
    }

    /// Returns the time since `deadline` was first called; 0 if it was never called. A thread calls `deadline` before
    /// it waits, so 0 means that the op has not waited.
    pub(crate) fn elapsed(&self) -> Duration {
        let started = self.deadline.get().and_then(|deadline| deadline.checked_sub(self.timeout.min(FOREVER)));
        started.map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// Makes every byte of `bool` outputs a valid `bool`.
    ///
    /// # Safety
    /// No other code uses the memory of the spans during this call.
    #[inline]
    pub(crate) unsafe fn normalise(&self) {
        let outputs = self.outputs();
        if outputs.first().is_some_and(|s| s.dtype() == DType::Bool) {
            // SAFETY: the caller guarantees it.
            outputs.iter().for_each(|span| unsafe { span.normalise_bool() });
        }
    }

    /// Adds the properties of the call to an error: group, rank and backend (from `lane`), op, number, elapsed time and
    /// timeout. Fields that the backend has set do not change.
    #[cold]
    pub(crate) fn described(&self, lane: Option<&Origin>, mut error: Error) -> Error {
        if let Some(lane) = lane {
            lane.describe(&mut error);
        }
        let report = error.report_mut();
        if let (ErrorKind::Mismatch { .. }, Some(seq)) = (&report.kind, report.seq)
            && (self.op.is_p2p() || seq as u32 != self.seq as u32)
            && !report.what.contains(FOUND)
            && lane.is_some()
        {
            // The mismatch is about another call, not about this call: the numbers of the two differ, or this call is
            // point-to-point and so has no number that ranks share. The error names both calls. A request without a
            // lane is a step inside an op, or a message of a backend; these are not calls of the program, so the error
            // does not name them.
            report.what += FOUND;
            report.what += &match self.op.is_p2p() {
                true => self.op.name().to_owned(),
                false => format!("{}, seq {}", self.op, self.seq),
            };
        }
        report.op.get_or_insert(self.op);
        report.seq.get_or_insert(self.seq);
        report.elapsed.get_or_insert_with(|| self.elapsed());
        report.deadline.get_or_insert(self.timeout);
        error
    }
}
