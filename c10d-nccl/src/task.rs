//! A job's description for the engine's thread, which makes the calls of CUDA and NCCL. The description is a copy, so
//! that other threads can end the job while such a call does not return.

use std::time::Duration;

use c10d_core::backend::{Fingerprint, Job, Params};
use c10d_core::{Error, Memory, OpKind, Result, Span};
use smallvec::SmallVec;

use crate::nccl::Address;

pub(crate) type DeviceSpans = SmallVec<[DeviceSpan; 1]>;

/// One tensor in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DeviceSpan {
    pub(crate) at: Address,
    pub(crate) count: usize,
    /// The size of an element in bytes.
    pub(crate) size: usize,
}

impl DeviceSpan {
    pub(crate) fn slice(self, start: usize, count: usize) -> DeviceSpan {
        DeviceSpan { at: self.at + (start * self.size) as u64, count, ..self }
    }

    pub(crate) fn bytes(self) -> usize {
        self.count * self.size
    }
}

/// The description of a job.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// The job's number in the job table.
    pub(crate) id: u64,
    pub(crate) op: OpKind,
    pub(crate) dtype: Option<c10d_core::DType>,
    pub(crate) inputs: DeviceSpans,
    pub(crate) outputs: DeviceSpans,
    pub(crate) params: Params,
    /// The caller's stream.
    pub(crate) stream: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
}

impl Task {
    pub(crate) fn of(job: &Job, device: u16) -> Result<Task> {
        let request = job.request();
        let parts = |spans: &[Span]| spans.iter().map(|s| part(s, device)).collect::<Result<DeviceSpans>>();
        Ok(Task {
            id: 0,
            op: request.op,
            dtype: request.dtype(),
            inputs: parts(request.inputs())?,
            outputs: parts(request.outputs())?,
            params: request.params.clone(),
            stream: request.stream,
            fingerprint: request.fingerprint,
            timeout: request.timeout,
        })
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &DeviceSpan> {
        self.inputs.iter().chain(&self.outputs)
    }
}

fn part(span: &Span, device: u16) -> Result<DeviceSpan> {
    match span.memory() {
        Memory::Cuda(at) if span.device().index() == device => {
            Ok(DeviceSpan { at, count: span.count(), size: span.dtype().size() })
        }
        _ => Err(Error::invalid(format!(
            "this group's communicator is on cuda:{device}, but the tensor is on {}; choose the device with the group \
             builder's `device`, the hint nccl.device or LOCAL_RANK",
            span.device()
        ))),
    }
}
