//! The validation of calls, before anything is sent. Backends do not repeat it.

use std::fmt::Arguments;

use super::{overlap, sparse};
use crate::backend::Request;
use crate::buffer::Span;
use crate::catalog::Shape;
use crate::types::Identity;
use crate::{Error, Result};

/// Checks a call of rank `rank` in a group of `size` ranks.
pub(crate) fn validate(request: &Request, rank: u32, size: u32) -> Result {
    if let Some(layout) = request.sparse() {
        return sparse::validate(request, layout);
    }
    let op = request.op;
    let params = &request.params;
    let (inputs, outputs) = (request.inputs(), request.outputs());
    let n = size as usize;
    let me = rank as usize;

    if op.is_rooted() && params.root >= size {
        return Err(Error::invalid(format!("root {} is not a rank of a group of {size}", params.root)));
    }
    if params.root_tensor != 0 {
        let what = format!("root_tensor is {}, but there is one tensor per rank; use 0", params.root_tensor);
        return Err(Error::invalid(what));
    }

    match op.row().shape {
        Shape::Source => {
            lists(request, (1, 1), (0, 0))?;
            peer(params.peer, rank, size)?;
        }
        Shape::Target => {
            lists(request, (0, 0), (1, 1))?;
            match op {
                crate::OpKind::RecvAnySource if size == 1 => {
                    return Err(Error::invalid("the group has only one rank, so no other rank can send a message"));
                }
                crate::OpKind::RecvAnySource => {}
                _ => peer(params.peer, rank, size)?,
            }
        }
        Shape::InPlace => lists(request, (0, 0), (1, 1))?,
        Shape::InPlaceList => lists(request, (0, 0), (1, usize::MAX))?,
        Shape::GatherList => {
            lists(request, (1, 1), (n, n))?;
            same(format_args!("input"), &inputs[0], format_args!("output {me}, this rank's own"), &outputs[me])?;
        }
        Shape::GatherFlat => {
            lists(request, (1, 1), (1, 1))?;
            times(format_args!("output"), &outputs[0], n, format_args!("input"), &inputs[0])?;
        }
        Shape::GatherLists => {
            let k = inputs.len();
            lists(request, (1, usize::MAX), (k.saturating_mul(n), k.saturating_mul(n)))?;
            if request.output_row() != n {
                let row = request.output_row();
                return Err(Error::invalid(format!(
                    "each list of outputs must have {n} tensors, one per rank, not {row}"
                )));
            }
            for (i, input) in inputs.iter().enumerate() {
                same(format_args!("input {i}"), input, format_args!("output {me} of list {i}"), &outputs[i * n + me])?;
            }
        }
        Shape::GatherFlats => {
            lists(request, (1, usize::MAX), (inputs.len(), inputs.len()))?;
            for (i, (input, output)) in inputs.iter().zip(outputs).enumerate() {
                times(format_args!("output {i}"), output, n, format_args!("input {i}"), input)?;
            }
        }
        Shape::ScatterList => {
            lists(request, (n, n), (1, 1))?;
            same(format_args!("input {me}, this rank's own"), &inputs[me], format_args!("output"), &outputs[0])?;
        }
        Shape::ScatterFlat => {
            lists(request, (1, 1), (1, 1))?;
            times(format_args!("input"), &inputs[0], n, format_args!("output"), &outputs[0])?;
        }
        Shape::ScatterFlats => {
            lists(request, (1, usize::MAX), (inputs.len(), inputs.len()))?;
            for (i, (input, output)) in inputs.iter().zip(outputs).enumerate() {
                times(format_args!("input {i}"), input, n, format_args!("output {i}"), output)?;
            }
        }
        Shape::RootGather if rank == params.root => {
            lists(request, (1, 1), (n, n))?;
            same(format_args!("input"), &inputs[0], format_args!("output {me}, this rank's own"), &outputs[me])?;
        }
        Shape::RootGather => lists(request, (1, 1), (0, 0))?,
        Shape::RootScatter if rank == params.root => {
            lists(request, (n, n), (1, 1))?;
            same(format_args!("input {me}, this rank's own"), &inputs[me], format_args!("output"), &outputs[0])?;
        }
        Shape::RootScatter => lists(request, (0, 0), (1, 1))?,
        Shape::ExchangeList => {
            lists(request, (n, n), (n, n))?;
            same(format_args!("input {me}"), &inputs[me], format_args!("output {me}"), &outputs[me])?;
        }
        Shape::ExchangeFlat => {
            lists(request, (1, 1), (1, 1))?;
            let ins = part("input", &inputs[0], params.input_splits(), n, me)?;
            let outs = part("output", &outputs[0], params.output_splits(), n, me)?;
            if ins != outs {
                return Err(Error::invalid(format!(
                    "this rank sends {ins} elements to itself, but expects {outs}: input and output splits disagree at {me}"
                )));
            }
        }
        Shape::Nothing => lists(request, (0, 0), (0, 0))?,
    }

    spans(inputs, outputs)?;
    if let Some(identity) = request.identity().filter(|_| op.reduces()) {
        let what = format!("{op} cannot reduce {identity}, a type of the program; use `Reductions` with a closure");
        return Err(Error::invalid(what));
    }
    if let (true, Some(dtype)) = (op.reduces(), request.dtype())
        && !params.reduce.is_defined_on(dtype)
    {
        return Err(Error::invalid(format!("{} is not defined on {dtype}", params.reduce)));
    }
    overlap::check(request, me)
}

/// Checks the lengths of the lists of inputs and outputs.
fn lists(request: &Request, inputs: (usize, usize), outputs: (usize, usize)) -> Result {
    for (what, have, (min, max)) in
        [("input", request.inputs().len(), inputs), ("output", request.outputs().len(), outputs)]
    {
        if have < min || have > max {
            let want = if max == usize::MAX { format!("at least {min}") } else { min.to_string() };
            return Err(Error::invalid(format!("the {what} list must have {want} tensors here, not {have}")));
        }
    }
    Ok(())
}

fn peer(peer: u32, rank: u32, size: u32) -> Result {
    if peer >= size {
        return Err(Error::invalid(format!("peer {peer} is not a rank of a group of {size}")));
    }
    if peer == rank {
        return Err(Error::invalid(format!("peer {peer} is this rank itself")));
    }
    Ok(())
}

fn same(name_a: Arguments<'_>, a: &Span, name_b: Arguments<'_>, b: &Span) -> Result {
    if a.count() == b.count() {
        return Ok(());
    }
    Err(Error::invalid(format!("{name_a} has {} elements, {name_b} has {}; they must be equal", a.count(), b.count())))
}

fn times(name_whole: Arguments<'_>, whole: &Span, n: usize, name_part: Arguments<'_>, part: &Span) -> Result {
    if part.count().checked_mul(n) == Some(whole.count()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name_whole} has {} elements; it must have {n} times the {} of {name_part}",
        whole.count(),
        part.count()
    )))
}

/// Checks the split sizes of the input or of the output. Returns the size of this rank's part.
fn part(name: &str, span: &Span, splits: &[usize], n: usize, me: usize) -> Result<usize> {
    if splits.is_empty() {
        let elements = span.count() / span.identity().map_or(1, Identity::bytes);
        if !elements.is_multiple_of(n) {
            return Err(Error::invalid(format!(
                "{name} has {elements} elements, which is not a multiple of the number of ranks ({n}); pass split sizes"
            )));
        }
        return Ok(span.count() / n);
    }
    if splits.len() != n {
        return Err(Error::invalid(format!("there must be {n} {name} splits, one per rank, not {}", splits.len())));
    }
    let sum = splits.iter().try_fold(0usize, |a, b| a.checked_add(*b));
    if sum != Some(span.count()) {
        let sum = sum.map_or("more than any memory can hold".to_owned(), |s| s.to_string());
        return Err(Error::invalid(format!("{name} splits sum to {sum}, but {name} has {} elements", span.count())));
    }
    Ok(splits[me])
}

/// Checks that all spans have the same element type and device, possible sizes and valid addresses.
fn spans(inputs: &[Span], outputs: &[Span]) -> Result {
    let Some(first) = inputs.first().or(outputs.first()) else { return Ok(()) };
    let (dtype, identity, device) = (first.dtype(), first.identity(), first.device());
    for s in inputs.iter().chain(outputs) {
        if s.dtype() != dtype {
            return Err(Error::invalid(format!(
                "all tensors of an op must have one element type, but these have {dtype} and {}",
                s.dtype()
            )));
        }
        if s.identity() != identity {
            let name = |i: Option<Identity>| i.map_or_else(|| dtype.to_string(), |i| i.to_string());
            let (first, other) = (name(identity), name(s.identity()));
            return Err(Error::invalid(format!(
                "all tensors of an op must have one element type, but these have {first} and {other}"
            )));
        }
        if s.device() != device {
            return Err(Error::invalid(format!(
                "all tensors of an op must be on one device, but these are on {device} and {}",
                s.device()
            )));
        }
        span(s)?;
    }
    Ok(())
}

/// Checks that the size is possible and that the address is aligned and not null.
#[inline]
pub(super) fn span(s: &Span) -> Result {
    if s.bytes() > isize::MAX as usize {
        return Err(Error::invalid("a tensor is larger than any memory"));
    }
    let address = s.host_ptr().map_or(usize::MAX, |p| p as usize);
    if s.count() > 0 && address == 0 {
        return Err(Error::invalid("a tensor with elements has a null address"));
    }
    if s.count() > 0 && address != usize::MAX && address & (s.dtype().align() - 1) != 0 {
        return Err(Error::invalid(format!("a tensor of {} begins at {address:#x}, which is not aligned", s.dtype())));
    }
    Ok(())
}
