//! Converts a request of the ABI to a call of core.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::backend::Params;
use c10d_core::device::DeviceRuntime;
use c10d_core::{DType, Device, Error, OpKind, RawSpans, ReduceOp, Result, Span};

use crate::abi::{self, Request, codes};

pub(super) struct RawCall {
    pub(super) op: OpKind,
    pub(super) params: Params,
    pub(super) spans: RawSpans,
}

/// # Safety
/// The request is valid by the ABI.
pub(super) unsafe fn of(request: &Request, runtime: Option<&Arc<dyn DeviceRuntime>>) -> Result<RawCall> {
    let unknown = |what: &str, code: u32| Error::unsupported(format!("{what} {code} is newer than this plugin"));
    let op = u8::try_from(request.op).ok().and_then(OpKind::from_code);
    let op = op.ok_or_else(|| unknown("op", request.op))?;
    let mut params = Params::default();
    if request.reduce != codes::NO_REDUCE {
        let reduce = u8::try_from(request.reduce).ok().and_then(|code| ReduceOp::from_code(code, request.factor));
        params.reduce = reduce.ok_or_else(|| unknown("reduce operation", request.reduce))?;
    }
    params.root = request.root;
    params.peer = request.peer;
    params.tag = request.tag;
    params.wait_all_ranks = request.flags & codes::WAIT_ALL_RANKS != 0;
    // SAFETY: the caller guarantees that the arrays have these lengths.
    let spans = unsafe {
        RawSpans {
            inputs: spans(request.inputs, request.input_count, runtime)?,
            outputs: spans(request.outputs, request.output_count, runtime)?,
            output_row: request.output_row as usize,
        }
    };
    Ok(RawCall { op, params, spans })
}

/// Returns the input and output splits of a request. Each list has one number per rank, or is empty if the request has
/// no such splits.
///
/// # Safety
/// The request is valid by the ABI, and the group has this size.
pub(super) unsafe fn splits(request: &Request, size: u32) -> [Vec<usize>; 2] {
    [request.input_splits, request.output_splits].map(|list| {
        if list.is_null() {
            return Vec::new();
        }
        // SAFETY: the caller guarantees one number per rank.
        unsafe { std::slice::from_raw_parts(list, size as usize) }.iter().map(|n| *n as usize).collect()
    })
}

unsafe fn spans(first: *const abi::Span, count: u64, runtime: Option<&Arc<dyn DeviceRuntime>>) -> Result<Vec<Span>> {
    let mut at = first;
    (0..count)
        .map(|_| {
            // SAFETY: by the ABI there are `count` spans, each as long as its size says, and not shorter than in
            // version 1.0.
            let s = unsafe { at.read() };
            at = at.wrapping_byte_add(s.struct_size as usize);
            span(&s, runtime)
        })
        .collect()
}

fn span(s: &abi::Span, runtime: Option<&Arc<dyn DeviceRuntime>>) -> Result<Span> {
    let dtype = u8::try_from(s.dtype).ok().and_then(DType::from_code);
    let dtype =
        dtype.ok_or_else(|| Error::unsupported(format!("element type {} is newer than this plugin", s.dtype)))?;
    let index =
        u16::try_from(s.device_id).map_err(|_| Error::invalid(format!("there is no device {}", s.device_id)))?;
    let device = match s.device_type {
        codes::DEVICE_CPU => Device::CPU,
        codes::DEVICE_CUDA => Device::cuda(index),
        codes::DEVICE_PRIVATE => runtime.map_or(Device::private(0, index), |r| r.device(index)),
        other => return Err(Error::unsupported(format!("device type {other} is not known to this plugin"))),
    };
    // An empty span may have no address, but slices need an aligned address.
    let data =
        if s.count == 0 && s.device_type == codes::DEVICE_CPU { std::ptr::without_provenance_mut(64) } else { s.data };
    Ok(Span::new(data.cast(), s.offset, s.count, dtype, device))
}
