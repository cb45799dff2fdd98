//! Converts a request to the form of the ABI. The operation owns the converted request: the plugin may read it until
//! the operation ends.
#![allow(unsafe_code)]

use std::time::Duration;

use c10d_core::Span;
use c10d_core::backend::{Caller, Request};
use c10d_core::device::DevicePtr;

use super::lend::Lent;
use crate::abi::{self, codes};

/// A request of the ABI, and all memory to which it points.
pub(super) struct PluginRequest {
    pub(super) request: abi::Request,
    _inputs: Box<[abi::Span]>,
    _outputs: Box<[abi::Span]>,
    _splits: [Box<[u64]>; 2],
}

// SAFETY: the pointers point into the boxes in the other fields, and into memory that is lent to the plugin.
unsafe impl Send for PluginRequest {}

pub(super) fn plugin_request(request: &Request, lent: &Lent, remaining: Duration) -> Box<PluginRequest> {
    let first_output = request.inputs().len();
    let inputs: Box<[_]> = request.inputs().iter().enumerate().map(|(i, s)| span(s, lent, i)).collect();
    let outputs: Box<[_]> =
        request.outputs().iter().enumerate().map(|(i, s)| span(s, lent, first_output + i)).collect();
    let p = &request.params;
    let splits = [p.input_splits(), p.output_splits()].map(|s| s.iter().map(|n| *n as u64).collect::<Box<[u64]>>());
    let (mut flags, mut factor, mut reduce) = (0, 0.0, codes::NO_REDUCE);
    if p.wait_all_ranks {
        flags |= codes::WAIT_ALL_RANKS;
    }
    if request.caller == Caller::Waits {
        flags |= codes::CALLER_WAITS;
    }
    if request.op.reduces() {
        reduce = u32::from(p.reduce.code());
        if let c10d_core::ReduceOp::PreMulSum(by) = p.reduce {
            factor = by;
        }
    }
    let request = abi::Request {
        struct_size: abi::size::<abi::Request>(),
        op: request.op as u32,
        dtype: request.dtype().map_or(codes::NO_DTYPE, |d| d as u32),
        reduce,
        factor,
        root: p.root,
        peer: p.peer,
        tag: p.tag,
        flags,
        seq: request.seq,
        timeout_ns: u64::try_from(remaining.as_nanos()).unwrap_or(u64::MAX),
        stream: request.stream,
        inputs: pointer(&inputs),
        input_count: inputs.len() as u64,
        outputs: pointer(&outputs),
        output_count: outputs.len() as u64,
        output_row: request.output_row() as u64,
        input_splits: pointer(&splits[0]),
        output_splits: pointer(&splits[1]),
        fingerprint: request.fingerprint.to_bytes(),
    };
    Box::new(PluginRequest { request, _inputs: inputs, _outputs: outputs, _splits: splits })
}

fn pointer<T>(list: &[T]) -> *const T {
    if list.is_empty() { std::ptr::null() } else { list.as_ptr() }
}

fn span(span: &Span, lent: &Lent, i: usize) -> abi::Span {
    let (type_code, type_bits) = span.dtype().dlpack();
    let (data, offset) = match (lent.address(i).or(span.host_ptr()), span.device_ptr()) {
        (Some(host), _) => (host.cast(), 0),
        (None, Some(DevicePtr { base, offset })) => (base.cast(), offset),
        (None, None) => (std::ptr::null_mut(), 0),
    };
    let data = if span.count() == 0 { std::ptr::null_mut() } else { data };
    abi::Span {
        struct_size: abi::size::<abi::Span>(),
        dtype: span.dtype() as u32,
        data,
        offset,
        count: span.count() as u64,
        device_type: span.device().kind() as i32,
        device_id: i32::from(span.device().index()),
        type_code,
        type_bits,
        type_lanes: 1,
        reserved: 0,
    }
}
