//! A fast check for the most common kind of call: one tensor in host memory, used in place.

use crate::backend::{Fingerprint, Request};
use crate::buffer::Span;
use crate::catalog::Shape;
use crate::types::ReduceOp;

/// Returns the tensor of a plain call: a valid call with one tensor in host memory that is used in place. Returns
/// `None` for any other call. If that call is invalid, [`validate`](super::validate) then rejects it.
#[inline]
pub(crate) fn plain(request: &Request, size: u32) -> Option<Span> {
    let (op, params) = (request.op, &request.params);
    let ([], [one]) = (request.inputs(), request.outputs()) else { return None };
    let in_place = op.row().shape == Shape::InPlace && request.sparse().is_none() && one.identity().is_none();
    let bad_root = params.root_tensor != 0 || op.is_rooted() && params.root >= size;
    // A call with a factor is not plain, since its fingerprint has the factor in place of the tag.
    let defined =
        !op.reduces() || params.reduce.is_defined_on(one.dtype()) && !matches!(params.reduce, ReduceOp::PreMulSum(_));
    (in_place && !bad_root && defined && one.is_plain()).then_some(*one)
}

/// Returns the fingerprint of a plain call, equal to the result of [`fingerprint`](crate::backend::fingerprint).
#[inline]
pub(crate) fn plain_fingerprint(request: &Request, one: &Span) -> Fingerprint {
    let (op, params) = (request.op, &request.params);
    Fingerprint {
        seq: request.seq as u32,
        op: op as u8,
        dtype: one.dtype() as u8,
        reduce: if op.reduces() { params.reduce.code() } else { Fingerprint::NO_REDUCE },
        step: 0,
        count: one.count() as u64,
        root: if op.is_rooted() { params.root } else { params.tag },
        rest: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::OpKind;
    use crate::backend::{Caller, fingerprint};
    use crate::dispatch::validate;
    use crate::options::Params;
    use crate::types::{DType, Device, Identity};

    /// Every plain call is valid, and its fingerprint is that of the general function. The usual calls are plain.
    #[test]
    fn plain_calls_are_valid_ones_with_the_same_fingerprint() {
        let mut memory = [0u64; 8];
        let at = memory.as_mut_ptr();
        let spans = [
            Span::host(at, 8),
            Span::host(at, 0),
            Span::host(std::ptr::null_mut::<f32>(), 0),
            Span::host(std::ptr::null_mut::<f32>(), 4),
            Span::host(at.cast::<f32>(), 3),
            Span::host(at.cast::<u8>().wrapping_add(1).cast::<f32>(), 3),
            Span::host(at.cast::<bool>(), 3),
            Span::host(at, usize::MAX / 8),
            Span::host(at.cast::<u8>(), 16).identified(Identity::new("plain::Two", 2, "").unwrap()),
            Span::new(at.cast(), 0, 4, DType::F32, Device::cuda(0)),
        ];
        let reduces = [ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Bxor, ReduceOp::PreMulSum(2.0)];
        let mut plain_ones = 0;
        for op in OpKind::ALL.iter().copied() {
            for (span, reduce) in spans.iter().flat_map(|span| reduces.map(|reduce| (span, reduce))) {
                for (root, root_tensor, tag) in [(0, 0, 0), (1, 0, 7), (2, 0, 0), (0, 1, 0)] {
                    let params = Params { reduce, root, root_tensor, tag, ..Params::default() };
                    let mut request = Request::new(op, Caller::Waits, params, Duration::ZERO);
                    request.seq = 5;
                    request.spans.outputs.push(*span);
                    let Some(one) = plain(&request, 2) else { continue };
                    plain_ones += 1;
                    assert!(validate(&request, 0, 2).is_ok(), "{request:?}");
                    assert_eq!(plain_fingerprint(&request, &one), fingerprint(&request), "{request:?}");
                    request.spans.inputs.push(*span);
                    assert!(plain(&request, 2).is_none());
                }
            }
        }
        // Five of the tensors are valid. A broadcast ignores the reduce operation, so 5 tensors x 4 operations x 2
        // valid roots = 40 calls are plain. The other two ops are plain for 10 of the 20 pairs of tensor and operation:
        // all_reduce ignores the root, so it has 10 x 3 plain calls; reduce has 10 x 2.
        assert_eq!(plain_ones, 90);
    }
}
