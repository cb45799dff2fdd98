//! The buffers of one call. They describe their spans to a [`Sink`], and are returned to the caller when the call is
//! done.
#![allow(unsafe_code)]

use super::Outcome;
use super::coo::SparseCall;
use super::{Buf, BufMut, Span, Spans};
use crate::{Error, Result};

/// Collects the spans of a call's buffers.
#[derive(Debug, Default)]
pub struct Sink {
    pub(crate) inputs: Spans,
    pub(crate) outputs: Spans,
    pub(crate) output_row: usize,
    /// The data of a sparse tensor, for a call that has one. The inputs are then the tensor's values and indices.
    pub(crate) sparse: Option<Box<SparseCall>>,
}

impl Sink {
    /// Adds a tensor that the op reads.
    #[inline]
    pub fn input(&mut self, span: Span) {
        self.inputs.push(span);
    }

    /// Adds a tensor that the op writes. A dense tensor that an in-place op such as `all_reduce` reads and writes is
    /// added here only.
    #[inline]
    pub fn output(&mut self, span: Span) {
        self.outputs.push(span);
    }

    /// Declares that the outputs are a list of lists, each of `len` tensors.
    pub fn output_row(&mut self, len: usize) {
        self.output_row = len;
    }
}

/// The buffers of one call.
///
/// # Safety
/// `describe` is called once, when the value is at its final address. From then until the value is dropped or given to
/// `back`, the memory of every described span stays allocated and does not move. No other code uses the memory of
/// outputs, and no other code writes to the memory of inputs.
pub unsafe trait Buffers: Send {
    /// The type that the caller gets back.
    type Back;
    /// Adds the spans of the buffers to `sink`.
    fn describe(&mut self, sink: &mut Sink) -> Result;
    /// Returns the buffers when the op is done.
    fn back(self, outcome: Outcome) -> Self::Back;
}

/// The buffers of an op that reads one tensor.
pub struct Source<I>(pub(crate) I);

// SAFETY: `Buf` has the same requirements.
unsafe impl<I: Buf> Buffers for Source<I> {
    type Back = I;
    fn describe(&mut self, sink: &mut Sink) -> Result {
        sink.input(self.0.ready()?);
        Ok(())
    }
    fn back(self, _: Outcome) -> I {
        self.0
    }
}

/// The buffers of an op that writes one tensor, or reads and writes it.
pub struct Target<O>(pub(crate) O);

// SAFETY: `BufMut` has the same requirements.
unsafe impl<O: BufMut> Buffers for Target<O> {
    type Back = O;
    fn describe(&mut self, sink: &mut Sink) -> Result {
        sink.output(self.0.ready()?);
        Ok(())
    }
    fn back(self, _: Outcome) -> O {
        self.0
    }
}

/// A tensor that [`op::all_reduce`](crate::op::all_reduce) reads and writes: a dense tensor (any [`BufMut`]), or a
/// sparse tensor ([`Coo`](super::Coo) and [`DeviceCoo`](crate::DeviceCoo), by value or by `&mut`).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a writable buffer for collectives",
    label = "use `&mut [T]`, `&mut Vec<T>`, `Vec<T>`, `Box<[T]>`, a device buffer or a sparse tensor"
)]
pub trait InPlace: Sized {
    /// The type of the call's buffers.
    type Buffers: Buffers<Back = Self>;
    /// Converts this tensor to the buffers of a call.
    fn into_buffers(self) -> Self::Buffers;
}

impl<B: BufMut> InPlace for B {
    type Buffers = Target<B>;
    fn into_buffers(self) -> Target<B> {
        Target(self)
    }
}

/// The buffers of an op that writes one tensor and returns the rank that sent it.
pub struct SourceKnown<O>(pub(crate) O);

// SAFETY: `BufMut` has the same requirements.
unsafe impl<O: BufMut> Buffers for SourceKnown<O> {
    type Back = (O, u32);
    fn describe(&mut self, sink: &mut Sink) -> Result {
        sink.output(self.0.ready()?);
        Ok(())
    }
    fn back(self, outcome: Outcome) -> (O, u32) {
        (self.0, outcome.source)
    }
}

/// The buffers of an op that reads and writes several tensors.
pub struct Each<B>(pub(crate) Vec<B>);

// SAFETY: `BufMut` has the same requirements; the vector is not changed between `describe` and `back`.
unsafe impl<B: BufMut> Buffers for Each<B> {
    type Back = Vec<B>;
    fn describe(&mut self, sink: &mut Sink) -> Result {
        sink.outputs.reserve_exact(self.0.len());
        self.0.iter_mut().try_for_each(|b| b.ready().map(|span| sink.output(span)))
    }
    fn back(self, _: Outcome) -> Vec<B> {
        self.0
    }
}

/// The buffers of an op without tensors.
pub struct Nothing;

// SAFETY: it describes no span.
unsafe impl Buffers for Nothing {
    type Back = ();
    fn describe(&mut self, _: &mut Sink) -> Result {
        Ok(())
    }
    fn back(self, _: Outcome) {}
}

/// The buffers of an all-gather in place: one tensor per rank. The op reads this rank's tensor and writes the others.
pub struct Gathered<B>(pub(crate) Vec<B>, pub(crate) usize);

// SAFETY: `BufMut` has the same requirements; the vector is not changed between `describe` and `back`. The input shares
// its memory with one output; validation rejects this for every op that does not allow it.
unsafe impl<B: BufMut> Buffers for Gathered<B> {
    type Back = Vec<B>;
    fn describe(&mut self, sink: &mut Sink) -> Result {
        sink.outputs.reserve_exact(self.0.len());
        self.0.iter_mut().try_for_each(|b| b.ready().map(|span| sink.output(span)))?;
        let own = sink.outputs.get(self.1).copied();
        sink.input(own.ok_or_else(|| Error::invalid(format!("there is no buffer of rank {}", self.1)))?);
        Ok(())
    }
    fn back(self, _: Outcome) -> Vec<B> {
        self.0
    }
}

/// The buffers of an op with inputs and outputs.
pub struct Both<I, O>(pub(crate) I, pub(crate) O);

// SAFETY: `Operands` has the same requirements.
unsafe impl<I: Operands, O: Operands> Buffers for Both<I, O> {
    type Back = (I::Back, O::Back);
    fn describe(&mut self, sink: &mut Sink) -> Result {
        self.0.spans(&mut sink.inputs, &mut 0)?;
        self.1.spans(&mut sink.outputs, &mut sink.output_row)
    }
    fn back(self, _: Outcome) -> Self::Back {
        (self.0.back(), self.1.back())
    }
}

/// The buffers of any op, as a list of inputs and a list of outputs.
pub struct Lists<I, O> {
    pub(crate) inputs: Vec<I>,
    pub(crate) outputs: Vec<O>,
    /// The number of outputs of each input, for ops in which each input has a list of outputs; else 0.
    pub(crate) row: usize,
}

// SAFETY: `Buf` and `BufMut` have the same requirements; the vectors are not changed between `describe` and `back`.
unsafe impl<I: Buf, O: BufMut> Buffers for Lists<I, O> {
    type Back = (Vec<I>, Vec<O>, u32);
    fn describe(&mut self, sink: &mut Sink) -> Result {
        sink.inputs.reserve_exact(self.inputs.len());
        sink.outputs.reserve_exact(self.outputs.len());
        self.inputs.iter_mut().try_for_each(|b| b.ready().map(|span| sink.input(span)))?;
        self.outputs.iter_mut().try_for_each(|b| b.ready().map(|span| sink.output(span)))?;
        sink.output_row(self.row);
        Ok(())
    }
    fn back(self, outcome: Outcome) -> Self::Back {
        (self.inputs, self.outputs, outcome.source)
    }
}

/// The inputs or the outputs of a call that has both.
///
/// # Safety
/// The same as for [`Buffers`].
pub unsafe trait Operands: Send {
    /// The type that the caller gets back.
    type Back;
    /// Adds the spans to `to`. If the spans are a list of lists, the function sets `row` to the length of each list.
    fn spans(&mut self, to: &mut Spans, row: &mut usize) -> Result;
    /// Returns the buffers when the op is done.
    fn back(self) -> Self::Back;
}

/// An operand of one tensor.
pub struct One<B>(pub(crate) B);

// SAFETY: `Buf` has the same requirements.
unsafe impl<B: Buf> Operands for One<B> {
    type Back = B;
    fn spans(&mut self, to: &mut Spans, _: &mut usize) -> Result {
        to.push(self.0.ready()?);
        Ok(())
    }
    fn back(self) -> B {
        self.0
    }
}

/// An operand that is a list of tensors.
pub struct Many<B>(pub(crate) Vec<B>);

// SAFETY: `Buf` has the same requirements; the vector is not changed between `spans` and `back`.
unsafe impl<B: Buf> Operands for Many<B> {
    type Back = Vec<B>;
    fn spans(&mut self, to: &mut Spans, _: &mut usize) -> Result {
        to.reserve_exact(self.0.len());
        self.0.iter_mut().try_for_each(|b| b.ready().map(|span| to.push(span)))
    }
    fn back(self) -> Vec<B> {
        self.0
    }
}

/// An operand that is a list of lists of tensors. All lists have the same length.
pub struct Rows<B>(pub(crate) Vec<Vec<B>>);

// SAFETY: the same as for `Many`.
unsafe impl<B: Buf> Operands for Rows<B> {
    type Back = Vec<Vec<B>>;
    fn spans(&mut self, to: &mut Spans, row: &mut usize) -> Result {
        *row = self.0.first().map_or(0, Vec::len);
        for (i, list) in self.0.iter_mut().enumerate() {
            if list.len() != *row {
                return Err(Error::invalid(format!("list 0 has {row} tensors, list {i} has {}", list.len())));
            }
            list.iter_mut().try_for_each(|b| b.ready().map(|span| to.push(span)))?;
        }
        Ok(())
    }
    fn back(self) -> Vec<Vec<B>> {
        self.0
    }
}

/// The root of a call: this rank, with the buffers that only the root has, or another rank.
///
/// ```
/// # use c10d_core::Root;
/// # let (me, mut outs) = (false, vec![vec![0f32]; 2]);
/// let root = if me { Root::Me(outs) } else { Root::At(0) };
/// # let _: Root<Vec<Vec<f32>>> = root;
/// ```
#[derive(Debug)]
pub enum Root<B> {
    /// This rank, with its buffers.
    Me(B),
    /// Another rank.
    At(u32),
}

impl Root<Vec<&'static mut [u8]>> {
    /// Makes the value for the root `rank`. The caller need not name the type of the root's buffers, which this rank
    /// does not have.
    pub fn at(rank: u32) -> Self {
        Root::At(rank)
    }
}

/// An operand that only the root has: a list of tensors.
pub struct AtRoot<B>(pub(crate) Option<Vec<B>>);

// SAFETY: the same as for `Many`.
unsafe impl<B: Buf> Operands for AtRoot<B> {
    type Back = Option<Vec<B>>;
    fn spans(&mut self, to: &mut Spans, _: &mut usize) -> Result {
        self.0.iter_mut().flatten().try_for_each(|b| b.ready().map(|span| to.push(span)))
    }
    fn back(self) -> Option<Vec<B>> {
        self.0
    }
}

/// The spans of a call of [`ProcessGroup::submit_raw`](crate::ProcessGroup::submit_raw).
#[derive(Clone, Debug, Default)]
pub struct RawSpans {
    /// The tensors that the op reads; empty for an in-place op such as `all_reduce`, which reads its outputs.
    pub inputs: Vec<Span>,
    /// The tensors that the op writes.
    pub outputs: Vec<Span>,
    /// The length of each list, if the outputs are a list of lists; else 0.
    pub output_row: usize,
}

// SAFETY: the caller of `submit_raw` guarantees that the spans are valid.
unsafe impl Buffers for RawSpans {
    type Back = Outcome;
    fn describe(&mut self, sink: &mut Sink) -> Result {
        sink.inputs.extend_from_slice(&self.inputs);
        sink.outputs.extend_from_slice(&self.outputs);
        sink.output_row = self.output_row;
        Ok(())
    }
    fn back(self, outcome: Outcome) -> Outcome {
        outcome
    }
}
