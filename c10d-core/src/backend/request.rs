//! What a backend is asked to do: validated, numbered, type-erased.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::Fingerprint;
use crate::buffer::{CooLayout, Sink, Span};
use crate::catalog::OpKind;
use crate::options::Params;
use crate::store::{FOREVER, deadline_after};
use crate::types::{DType, DispatchKey, Element, Identity};

/// Whether the caller waits for the op inside the call. If so, the backend may do the whole op inside `submit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It does (c10d's `asyncOp = false`).
    Waits,
    /// It goes on and waits later, if at all.
    Continues,
}

/// A validated call. Backends do not check it again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Request {
    /// The op.
    pub op: OpKind,
    /// The key by which it was routed.
    pub key: DispatchKey,
    /// Whether the caller waits.
    pub caller: Caller,
    /// The call's number in its lane; for point-to-point a number of its own.
    pub seq: u64,
    /// What all ranks must agree on.
    pub fingerprint: Fingerprint,
    /// How long it may take.
    pub timeout: Duration,
    /// The scalar arguments.
    pub params: Params,
    /// The device stream on which it runs; 0 = the device's default, or none.
    pub stream: u64,
    pub(crate) spans: Sink,
    pub(crate) deadline: OnceLock<Instant>,
}

impl Request {
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

    /// What the op reads; empty for in-place ops.
    pub fn inputs(&self) -> &[Span] {
        &self.spans.inputs
    }

    /// What the op writes; in-place ops read it too.
    pub fn outputs(&self) -> &[Span] {
        &self.spans.outputs
    }

    /// Spans per list where the outputs are a list of lists (row-major); else 0.
    pub fn output_row(&self) -> usize {
        self.spans.output_row
    }

    /// The element type of all spans; none for barriers.
    pub fn dtype(&self) -> Option<DType> {
        self.outputs().first().or(self.inputs().first()).map(Span::dtype)
    }

    /// What the elements are called, where they are of a type that is no [`DType`] and travel as bytes.
    pub fn identity(&self) -> Option<Identity> {
        self.outputs().first().or(self.inputs().first()).and_then(Span::identity)
    }

    /// Of a call with a sparse tensor: what it is. Its inputs are then the values, and the indices.
    pub fn sparse(&self) -> Option<&CooLayout> {
        self.spans.sparse.as_deref().map(|call| &call.layout)
    }

    /// The elements of an input in host memory; `None` if there is no such input, or it is of another type or elsewhere.
    pub fn input<T: Element>(&self, i: usize) -> Option<&[T]> {
        let span = self.inputs().get(i).filter(|s| s.dtype() == T::DTYPE)?;
        let base = span.host_ptr()?.cast::<T>();
        if span.count() == 0 {
            return Some(&[]);
        }
        // SAFETY: validated (type, length, alignment, not null). The memory is the call's until its job is completed,
        // which the request does not outlive, and nobody writes to inputs meanwhile.
        Some(unsafe { std::slice::from_raw_parts(base, span.count()) })
    }

    /// When the op must be over. The clock is read at the first call, so an op that never waits never reads it.
    pub fn deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| deadline_after(self.timeout))
    }

    /// How long the op has taken since it was called. Whoever waits looks at the clock first, so 0 is right where nobody
    /// has: the op did not wait.
    pub(crate) fn elapsed(&self) -> Duration {
        let started = self.deadline.get().and_then(|deadline| deadline.checked_sub(self.timeout.min(FOREVER)));
        started.map_or(Duration::ZERO, |started| started.elapsed())
    }
}
