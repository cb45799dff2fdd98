//! A fast check for the most common kinds of calls: barriers, and calls in host memory with at most one input and one
//! output, or with a short list of tensors.

use crate::backend::{Fingerprint, Request};
use crate::buffer::Span;
use crate::catalog::{OpKind, Shape};
use crate::types::DType;

/// The length of the longest list of tensors in a plain call.
const LONGEST: usize = 4;

/// What [`plain_fingerprint`] needs to know about a plain call.
pub(crate) struct Plain {
    /// The element type; `None` for barriers.
    pub(crate) dtype: Option<DType>,
    /// The number of elements on which all ranks must agree; 0 if there is none.
    count: u64,
}

/// Checks a call. Returns `None` if [`validate`](super::validate) rejects the call, or if the call needs the general
/// functions, which can handle every call. The caller checks that the op is offered on the element type, and that the
/// reduce operation is defined on it and has no factor.
#[inline]
pub(crate) fn plain(request: &Request, rank: u32, size: u32) -> Option<Plain> {
    let (op, params) = (request.op, &request.params);
    if params.rare.is_some() || params.root_tensor != 0 || request.spans.sparse.is_some() {
        return None;
    }
    if op.is_rooted() && params.root >= size {
        return None;
    }
    let is_other = params.peer < size && params.peer != rank;
    let (one, count) = match (op.row().shape, request.inputs(), request.outputs()) {
        (Shape::InPlace, [], [one]) => (one, one.count()),
        (Shape::GatherFlat, [one], [whole]) | (Shape::ScatterFlat, [whole], [one])
            if one.count().checked_mul(size as usize) == Some(whole.count()) && are_alike(one, whole) =>
        {
            (one, one.count())
        }
        (Shape::ExchangeFlat, [one], [other])
            if one.count() == other.count() && one.count().is_multiple_of(size as usize) && are_alike(one, other) =>
        {
            (one, 0)
        }
        (Shape::Source, [one], []) if is_other => (one, one.count()),
        (Shape::Target, [], [one]) if is_other && op == OpKind::Recv => (one, one.count()),
        (Shape::RootGather, [one], []) | (Shape::RootScatter, [], [one]) if params.root != rank => (one, 0),
        (Shape::RootGather, [one], list) if params.root == rank && is_list(list, rank, size, one, true) => (one, 0),
        (Shape::GatherList, [one], list) if is_list(list, rank, size, one, true) => (one, 0),
        (Shape::RootScatter, list, [one]) if params.root == rank && is_list(list, rank, size, one, false) => (one, 0),
        (Shape::ScatterList, list, [one]) if is_list(list, rank, size, one, false) => (one, 0),
        (Shape::Nothing, [], []) => return Some(Plain { dtype: None, count: 0 }),
        _ => return None,
    };
    let is_plain = one.identity().is_none() && one.is_plain();
    is_plain.then(|| Plain { dtype: Some(one.dtype()), count: count as u64 })
}

/// Whether both tensors have the same element type, are in host memory that can exist, and share no memory.
#[inline]
fn are_alike(one: &Span, other: &Span) -> bool {
    let same = one.dtype() == other.dtype() && other.identity().is_none() && one.device() == other.device();
    same && other.is_plain() && !one.overlaps(other)
}

/// Whether the list has one tensor per rank, each of which is like `one` (see [`are_alike`]), and whether this rank's
/// tensor has the length of `one`. The tensors of a list of outputs must not share memory with each other either.
#[inline]
fn is_list(list: &[Span], rank: u32, size: u32, one: &Span, outputs: bool) -> bool {
    list.len() == size as usize
        && list.len() <= LONGEST
        && list[rank as usize].count() == one.count()
        && list.iter().all(|span| are_alike(one, span))
        && (!outputs || (1..list.len()).all(|i| list[..i].iter().all(|before| !before.overlaps(&list[i]))))
}

/// Returns the fingerprint of a plain call, equal to the result of [`fingerprint`](crate::backend::fingerprint).
#[inline]
pub(crate) fn plain_fingerprint(request: &Request, plain: &Plain) -> Fingerprint {
    let (op, params) = (request.op, &request.params);
    Fingerprint {
        seq: request.seq as u32,
        op: if op.is_p2p() { OpKind::Send as u8 } else { op as u8 },
        dtype: plain.dtype.map_or(Fingerprint::NO_DTYPE, |dtype| dtype as u8),
        reduce: if op.reduces() { params.reduce.code() } else { Fingerprint::NO_REDUCE },
        step: 0,
        count: plain.count,
        root: if op.is_rooted() { params.root } else { params.tag },
        rest: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{Caller, fingerprint};
    use crate::dispatch::validate;
    use crate::options::Params;
    use crate::types::{Device, Identity, ReduceOp};

    /// Every plain call is valid, and its fingerprint is that of the general function. The usual calls are plain.
    #[test]
    fn plain_calls_are_valid_ones_with_the_same_fingerprint() {
        let mut memory = [0u64; 32];
        let at = memory.as_mut_ptr();
        let behind = at.wrapping_add(16);
        let spans = [
            Span::host(at, 8),
            Span::host(at, 0),
            Span::host(behind, 4),
            Span::host(behind, 8),
            Span::host(at.wrapping_add(7), 4),
            Span::host(std::ptr::null_mut::<f32>(), 0),
            Span::host(std::ptr::null_mut::<f32>(), 4),
            Span::host(at.cast::<f32>(), 3),
            Span::host(behind.cast::<f32>(), 6),
            Span::host(at.cast::<u8>().wrapping_add(1).cast::<f32>(), 3),
            Span::host(at.cast::<bool>(), 3),
            Span::host(at, usize::MAX / 8),
            Span::host(at.cast::<u8>(), 16).identified(Identity::new("plain::Two", 2, "").unwrap()),
            Span::new(at.cast(), 0, 4, DType::F32, Device::cuda(0)),
        ];
        let reduces = [ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Bxor];
        let mut lists: Vec<Vec<Span>> = vec![vec![]];
        lists.extend(spans.iter().map(|span| vec![*span]));
        lists.extend(spans.iter().flat_map(|a| spans.iter().map(|b| vec![*a, *b])));
        let mut plain_ones = [0; OpKind::ALL.len()];
        let mut check = |op: OpKind, inputs: &[Span], outputs: &[Span], params: Params| {
            let reduce = params.reduce;
            let mut request = Request::new(op, Caller::Waits, params, Duration::ZERO);
            request.seq = 5;
            request.spans.inputs.extend(inputs.iter().copied());
            request.spans.outputs.extend(outputs.iter().copied());
            let Some(one) = plain(&request, 0, 2) else { return };
            if op.reduces() && !one.dtype.is_some_and(|dtype| reduce.is_defined_on(dtype)) {
                return;
            }
            plain_ones[op as usize] += 1;
            assert!(validate(&request, 0, 2).is_ok(), "{request:?}");
            assert_eq!(plain_fingerprint(&request, &one), fingerprint(&request), "{request:?}");
        };
        for (inputs, outputs) in lists.iter().flat_map(|inputs| lists.iter().map(move |outputs| (inputs, outputs))) {
            if inputs.len() + outputs.len() > 3 {
                continue;
            }
            for (op, reduce) in OpKind::ALL.iter().flat_map(|op| reduces.map(|reduce| (*op, reduce))) {
                for (root, root_tensor, tag, peer) in [(0, 0, 0, 1), (1, 0, 7, 0), (2, 0, 0, 2), (0, 1, 0, 1)] {
                    let params = Params { reduce, root, root_tensor, tag, peer, ..Params::default() };
                    check(op, inputs, outputs, params);
                }
            }
        }
        // The number of plain calls, by op. Nine of the tensors are valid alone, with three operations.
        let send_to_reduce = [27, 27, 0, 54, 54, 0, 36];
        let gathers = [108, 45, 0, 0];
        let scatters = [120, 30, 0];
        let others = [63, 87, 0, 54, 9, 9];
        assert_eq!(plain_ones[..], [&send_to_reduce[..], &gathers, &scatters, &others].concat());
    }

    /// A call whose arguments are the same, but of which one differs in a rare argument, is not plain.
    #[test]
    fn calls_with_rare_arguments_are_not_plain() {
        let mut memory = [0u64; 4];
        let (input, output) = (Span::host(memory.as_mut_ptr(), 2), Span::host(memory.as_mut_ptr().wrapping_add(2), 2));
        let mut params = Params::default();
        let is_plain = |params: &Params| {
            let mut request = Request::new(OpKind::AllToAllSingle, Caller::Waits, params.clone(), Duration::ZERO);
            request.spans.inputs.push(input);
            request.spans.outputs.push(output);
            plain(&request, 0, 2).is_some()
        };
        assert!(is_plain(&params));
        params.set_splits(vec![2, 0], vec![1, 1]);
        assert!(!is_plain(&params));
    }
}
