//! A validated, numbered, type-erased call, as backends get it.
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
    /// The caller waits (c10d's `asyncOp = false`).
    Waits,
    /// The caller continues and may wait later.
    Continues,
}

/// A validated call. Backends do not check it again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Request {
    /// The op.
    pub op: OpKind,
    /// The dispatch key of its buffers.
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

    /// What the op reads; empty for in-place ops.
    #[inline]
    pub fn inputs(&self) -> &[Span] {
        &self.spans.inputs
    }

    /// What the op writes; in-place ops read it too.
    #[inline]
    pub fn outputs(&self) -> &[Span] {
        &self.spans.outputs
    }

    /// Spans per list where the outputs are a list of lists (row-major); else 0.
    pub fn output_row(&self) -> usize {
        self.spans.output_row
    }

    /// The element type of all spans; none for barriers.
    #[inline]
    pub fn dtype(&self) -> Option<DType> {
        self.outputs().first().or(self.inputs().first()).map(Span::dtype)
    }

    /// The name of the elements' type, if it is not a [`DType`]; such elements travel as bytes.
    #[inline]
    pub fn identity(&self) -> Option<Identity> {
        self.outputs().first().or(self.inputs().first()).and_then(Span::identity)
    }

    /// The layout of the sparse tensor, for a call that has one. The inputs are then the values and the indices.
    #[inline]
    pub fn sparse(&self) -> Option<&CooLayout> {
        self.spans.sparse.as_deref().map(|call| &call.layout)
    }

    /// The elements of an input in host memory. `None` if there is no such input, or if it has another type or is not
    /// in host memory.
    pub fn input<T: Element>(&self, i: usize) -> Option<&[T]> {
        let span = self.inputs().get(i).filter(|s| s.dtype() == T::DTYPE)?;
        let base = span.host_ptr()?.cast::<T>();
        if span.count() == 0 {
            return Some(&[]);
        }
        // SAFETY: type, length, alignment and address were validated. The memory belongs to the call until its job is
        // completed, which the request does not outlive, and nobody writes to inputs meanwhile.
        Some(unsafe { std::slice::from_raw_parts(base, span.count()) })
    }

    /// The time by which the op must be done. The clock is read at the first call, so an op that never waits does not
    /// read it.
    #[inline]
    pub fn deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| deadline_after(self.timeout))
    }

    /// How long the op has taken since it was called. A thread that waits reads the clock first, so 0 is right if
    /// nobody has read it: the op did not wait.
    pub(crate) fn elapsed(&self) -> Duration {
        let started = self.deadline.get().and_then(|deadline| deadline.checked_sub(self.timeout.min(FOREVER)));
        started.map_or(Duration::ZERO, |started| started.elapsed())
    }
}
