//! Tensors of one call must not share memory, but for the in-place layouts that have a meaning.

use crate::buffer::Span;
use crate::job::Request;
use crate::ops::Shape;
use crate::{Error, Result};

/// Refuses overlapping tensors. Safe buffers cannot overlap; raw spans can.
pub(super) fn check(request: &Request, rank: usize) -> Result {
    let (inputs, outputs) = (request.inputs(), request.outputs());
    if inputs.is_empty() && outputs.len() <= 1 {
        return Ok(());
    }
    for (i, out) in outputs.iter().enumerate() {
        for (j, other) in outputs[..i].iter().enumerate() {
            if overlap(out, other) {
                return Err(Error::invalid(format!("outputs {j} and {i} share memory")));
            }
        }
        for (j, input) in inputs.iter().enumerate() {
            if overlap(input, out) && !in_place(request, rank, (j, input), (i, out)) {
                let what = format!("input {j} and output {i} share memory, but not in the op's in-place layout");
                return Err(Error::invalid(what));
            }
        }
    }
    Ok(())
}

fn overlap(a: &Span, b: &Span) -> bool {
    let ((base_a, a_range), (base_b, b_range)) = (a.range(), b.range());
    a.device() == b.device()
        && base_a == base_b
        && a_range.start < b_range.end
        && b_range.start < a_range.end
        && !a_range.is_empty()
        && !b_range.is_empty()
}

/// The layouts in which an input may be (part of) an output: the own block of a gather, the own block of a scatter.
fn in_place(request: &Request, rank: usize, (i, input): (usize, &Span), (o, output): (usize, &Span)) -> bool {
    let (a, b) = (input.range().1, output.range().1);
    let own_block = |whole: &std::ops::Range<u64>, part: &std::ops::Range<u64>| {
        part.start == whole.start + rank as u64 * (part.end - part.start)
    };
    match request.op.row().shape {
        Shape::GatherFlat | Shape::GatherFlats => i == o && own_block(&b, &a),
        Shape::ScatterFlat | Shape::ScatterFlats => i == o && own_block(&a, &b),
        Shape::GatherList | Shape::RootGather => o == rank && a == b,
        Shape::GatherLists => o == i * request.output_row() + rank && a == b,
        Shape::ScatterList | Shape::RootScatter => i == rank && a == b,
        _ => false,
    }
}
