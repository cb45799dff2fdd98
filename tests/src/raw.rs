//! Runs cases with in-place layouts, which only raw calls can have: the input is the rank's block of the output, or the
//! output is the rank's block of the input.
#![allow(unsafe_code)]

use c10d_core::backend::{Params, Shape};
use c10d_core::{ProcessGroup, RawSpans, Result, Span};

use crate::case::Case;
use crate::device::{Far, RankDevice};
use crate::reference::Tensors;
use crate::tensor::Tensor;

/// A part of a tensor in a list: the index of the tensor, the first element, and the number of elements.
type Part = (usize, usize, usize);

/// Runs the case in place, and then copies the data, so that the tensors look as if inputs and outputs had been
/// separate.
pub(crate) fn in_place(pg: &ProcessGroup, case: &Case, tensors: &mut Tensors, device: Option<&RankDevice>) -> Result {
    let me = pg.rank() as usize;
    let n = case.world as usize;
    let shape = case.op.row().shape;
    let Tensors { inputs, outputs } = tensors;
    let all = |list: &[Tensor], at: usize| -> Vec<Part> {
        list.iter().enumerate().map(|(i, t)| (at + i, 0, t.count())).collect()
    };
    // `memory` has the tensors of the call. An input inside an output, or an output inside an input, has no tensor of
    // its own there.
    let (mut memory, ins, outs, row): (Vec<Tensor>, Vec<Part>, Vec<Part>, usize) = match shape {
        Shape::GatherFlat | Shape::GatherFlats => {
            outputs.iter_mut().zip(inputs.iter()).for_each(|(output, input)| put(output, me, input));
            let own = |(i, input): (usize, &Tensor)| (i, me * input.count(), input.count());
            (outputs.clone(), inputs.iter().enumerate().map(own).collect(), all(outputs, 0), 0)
        }
        Shape::GatherList | Shape::GatherLists | Shape::RootGather if !outputs.is_empty() => {
            let lists = outputs.len() / n;
            (0..lists).for_each(|list| put(&mut outputs[list * n + me], 0, &inputs[list]));
            let outs = all(outputs, 0);
            let ins = (0..lists).map(|list| outs[list * n + me]).collect();
            (outputs.clone(), ins, outs, if shape == Shape::GatherLists { n } else { 0 })
        }
        Shape::ScatterFlat | Shape::ScatterFlats => {
            let own = |(i, output): (usize, &Tensor)| (i, me * output.count(), output.count());
            (inputs.clone(), all(inputs, 0), outputs.iter().enumerate().map(own).collect(), 0)
        }
        Shape::ScatterList | Shape::RootScatter if !inputs.is_empty() => {
            let ins = all(inputs, 0);
            let own = ins[me];
            (inputs.clone(), ins, vec![own], 0)
        }
        _ => {
            let memory = inputs.iter().chain(outputs.iter()).cloned().collect();
            (memory, all(inputs, 0), all(outputs, inputs.len()), 0)
        }
    };

    let mut params = Params::default();
    params.reduce = case.reduce;
    params.root = case.root;
    let run = |part: &mut dyn FnMut(&Part) -> Span| {
        let inputs = ins.iter().map(&mut *part).collect();
        let outputs = outs.iter().map(part).collect();
        let spans = RawSpans { inputs, outputs, output_row: row };
        // SAFETY: the tensors exist until the wait returns, and nothing else uses them before.
        unsafe { pg.submit_raw(case.op, params, None, spans) }.wait()
    };
    match device {
        None => drop(run(&mut |(i, start, count)| memory[*i].part(*start, *count))?),
        Some(device) => {
            let far = memory.into_iter().map(|tensor| device.put(tensor)).collect::<Result<Vec<Far>>>()?;
            run(&mut |(i, start, count)| far[*i].part(*start, *count))?;
            memory = far.into_iter().map(|tensor| device.get(tensor)).collect::<Result<_>>()?;
        }
    }

    // If the call's output was a block of an input, copy this block to the separate output, which the caller checks.
    match shape {
        Shape::GatherFlat | Shape::GatherFlats => *outputs = memory,
        Shape::GatherList | Shape::GatherLists | Shape::RootGather if !outputs.is_empty() => *outputs = memory,
        Shape::ScatterFlat | Shape::ScatterFlats => {
            for (input, output) in memory.iter().zip(outputs.iter_mut()) {
                let len = output.bytes().len();
                output.bytes_mut().copy_from_slice(&input.bytes()[me * len..(me + 1) * len]);
            }
            beside(inputs, &memory, |_, len| me * (len / n)..(me + 1) * (len / n));
        }
        Shape::ScatterList | Shape::RootScatter if !inputs.is_empty() => {
            put(&mut outputs[0], 0, &memory[me]);
            beside(inputs, &memory, |j, len| if j == me { 0..len } else { 0..0 });
        }
        _ => {
            *outputs = memory.split_off(inputs.len());
            *inputs = memory;
        }
    }
    Ok(())
}

/// Copies the data outside the rank's block back to the inputs. The caller checks that this data is unchanged.
fn beside(inputs: &mut [Tensor], memory: &[Tensor], own: impl Fn(usize, usize) -> std::ops::Range<usize>) {
    for (j, (input, shared)) in inputs.iter_mut().zip(memory).enumerate() {
        let own = own(j, input.bytes().len());
        let (before, after) = (..own.start, own.end..);
        input.bytes_mut()[before].copy_from_slice(&shared.bytes()[before]);
        input.bytes_mut()[after.clone()].copy_from_slice(&shared.bytes()[after]);
    }
}

/// Copies `from` to block number `block` of `to`.
fn put(to: &mut Tensor, block: usize, from: &Tensor) {
    let len = from.bytes().len();
    to.bytes_mut()[block * len..(block + 1) * len].copy_from_slice(from.bytes());
}
