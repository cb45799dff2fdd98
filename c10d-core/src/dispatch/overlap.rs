//! The check that tensors of one call do not share memory, except in the layouts that an op allows.

use std::ops::Range;

use smallvec::SmallVec;

use crate::backend::Request;
use crate::buffer::Span;
use crate::catalog::Shape;
use crate::{Error, Result};

/// If a call has at most this many tensors, each pair is compared first. If the call has more tensors, or a pair shares
/// memory, the outputs are sorted.
const FEW: usize = 4;

/// Returns an error if tensors overlap in a way that the op does not allow. Safe buffers cannot overlap, but raw spans
/// can. Inputs may share memory with each other.
///
/// All spans must be on one device.
pub(super) fn check(request: &Request, rank: usize) -> Result {
    let (inputs, outputs) = (request.inputs(), request.outputs());
    if outputs.is_empty() || (inputs.is_empty() && outputs.len() == 1) {
        return Ok(());
    }
    if inputs.len() + outputs.len() <= FEW && are_apart(inputs, outputs) {
        return Ok(());
    }
    // The outputs are sorted by address, so that only neighbours must be compared.
    let mut order: SmallVec<[(usize, Range<u64>, usize); 4]> = SmallVec::new();
    order.extend(outputs.iter().map(Span::range).enumerate().map(|(i, (base, range))| (base, range, i)));
    order.retain(|(_, range, _)| !range.is_empty());
    order.sort_unstable_by_key(|(base, range, _)| (*base, range.start));
    for pair in order.windows(2) {
        let ((base_a, a, i), (base_b, b, j)) = (&pair[0], &pair[1]);
        if base_a == base_b && b.start < a.end {
            let (i, j) = (i.min(j), i.max(j));
            return Err(Error::invalid(format!("outputs {i} and {j} share memory")));
        }
    }
    for (i, input) in inputs.iter().enumerate() {
        let (base, range) = input.range();
        let first = order.partition_point(|(b, r, _)| (*b, r.end) <= (base, range.start));
        let shared = order[first..].iter().take_while(|(b, r, _)| *b == base && r.start < range.end);
        for (_, out, o) in shared {
            if !range.is_empty() && !in_place(request, rank, (i, &range), (*o, out)) {
                let what = format!(
                    "input {i} and output {o} share memory, but not in an in-place layout that the op \
                    allows"
                );
                return Err(Error::invalid(what));
            }
        }
    }
    Ok(())
}

/// Returns whether no two tensors share memory.
fn are_apart(inputs: &[Span], outputs: &[Span]) -> bool {
    let all = || inputs.iter().chain(outputs).map(Span::range);
    let apart = |(base, a): &(usize, Range<u64>), (other, b): &(usize, Range<u64>)| {
        base != other || a.end <= b.start || b.end <= a.start
    };
    all().enumerate().all(|(i, a)| all().skip(i + 1).all(|b| apart(&a, &b)))
}

/// Returns whether the op allows that input `i` and output `o` share memory. In a gather, the input may be this rank's
/// block of the output. In a scatter, the output may be this rank's block of the input.
fn in_place(request: &Request, rank: usize, (i, a): (usize, &Range<u64>), (o, b): (usize, &Range<u64>)) -> bool {
    let own_block = |whole: &Range<u64>, part: &Range<u64>| {
        part.start == whole.start + rank as u64 * (part.end - part.start) && part.end <= whole.end
    };
    match request.op.row().shape {
        Shape::GatherFlat | Shape::GatherFlats => i == o && own_block(b, a),
        Shape::ScatterFlat | Shape::ScatterFlats => i == o && own_block(a, b),
        Shape::GatherList | Shape::RootGather => o == rank && a == b,
        Shape::GatherLists => o == i * request.output_row() + rank && a == b,
        Shape::ScatterList | Shape::RootScatter => i == rank && a == b,
        _ => false,
    }
}
