//! In-place layouts, which only raw calls can express: the input is the rank's own block of the output, or the other way
//! round.
#![allow(unsafe_code)]

use c10d_core::ops::{Params, Shape};
use c10d_core::{ProcessGroup, RawSpans, Result, Span};

use crate::case::{COALESCED, Case};
use crate::reference::Tensors;
use crate::tensor::Tensor;

/// Runs the case with the own block shared; copies so that inputs and outputs look as if they had been apart.
pub(crate) fn in_place(pg: &ProcessGroup, case: &Case, tensors: &mut Tensors) -> Result {
    let me = pg.rank() as usize;
    let n = case.world as usize;
    let Tensors { inputs, outputs } = tensors;
    let mut spans = RawSpans::default();
    // Where inputs alias parts of outputs, the original inputs stay aside, untouched; likewise the outputs.
    let mut shared: Vec<Tensor> = Vec::new();
    match case.op.row().shape {
        Shape::GatherFlat | Shape::GatherFlats => {
            for (input, output) in inputs.iter().zip(outputs.iter_mut()) {
                put(output, me, input);
                spans.inputs.push(output.part(me * input.count(), input.count()));
                spans.outputs.push(output.part(0, output.count()));
            }
        }
        Shape::GatherList | Shape::GatherLists | Shape::RootGather if !outputs.is_empty() => {
            let lists = outputs.len() / n;
            for list in 0..lists {
                put(&mut outputs[list * n + me], 0, &inputs[list]);
            }
            spans.outputs = outputs.iter_mut().map(whole).collect();
            spans.inputs = (0..lists).map(|list| spans.outputs[list * n + me]).collect();
            spans.output_row = if case.op.row().shape == Shape::GatherLists { n } else { 0 };
            debug_assert!(lists == 1 || lists == COALESCED);
        }
        Shape::ScatterFlat | Shape::ScatterFlats => {
            shared = inputs.clone();
            for (input, output) in shared.iter_mut().zip(outputs.iter()) {
                spans.inputs.push(whole(input));
                spans.outputs.push(input.part(me * output.count(), output.count()));
            }
        }
        Shape::ScatterList | Shape::RootScatter if !inputs.is_empty() => {
            shared = inputs.clone();
            spans.inputs = shared.iter_mut().map(whole).collect();
            spans.outputs = vec![spans.inputs[me]];
        }
        _ => {
            spans.inputs = inputs.iter_mut().map(whole).collect();
            spans.outputs = outputs.iter_mut().map(whole).collect();
        }
    }
    let mut params = Params::default();
    params.reduce = case.reduce;
    params.root = case.root;
    // SAFETY: the tensors outlive the wait and are not touched before it returns.
    let outcome = unsafe { pg.submit_raw(case.op, params, None, spans) }.wait();
    outcome?;
    // Where the output was a part of an input, show it as the output.
    match case.op.row().shape {
        Shape::ScatterFlat | Shape::ScatterFlats => {
            for (input, output) in shared.iter().zip(outputs.iter_mut()) {
                let len = output.bytes().len();
                output.bytes_mut().copy_from_slice(&input.bytes()[me * len..(me + 1) * len]);
            }
        }
        Shape::ScatterList | Shape::RootScatter if !shared.is_empty() => put(&mut outputs[0], 0, &shared[me]),
        _ => {}
    }
    // What lies beside the own block is input still, and must be as it was.
    for (j, (input, shared)) in inputs.iter_mut().zip(&shared).enumerate() {
        let own = match case.op.row().shape {
            Shape::ScatterFlat | Shape::ScatterFlats => {
                let len = input.bytes().len() / n;
                me * len..(me + 1) * len
            }
            _ if j == me => 0..input.bytes().len(),
            _ => 0..0,
        };
        let (before, after) = (..own.start, own.end..);
        input.bytes_mut()[before].copy_from_slice(&shared.bytes()[before]);
        input.bytes_mut()[after.clone()].copy_from_slice(&shared.bytes()[after]);
    }
    Ok(())
}

fn whole(tensor: &mut Tensor) -> Span {
    tensor.part(0, tensor.count())
}

/// Copies `from` into block number `block` of `to`.
fn put(to: &mut Tensor, block: usize, from: &Tensor) {
    let len = from.bytes().len();
    to.bytes_mut()[block * len..(block + 1) * len].copy_from_slice(from.bytes());
}
