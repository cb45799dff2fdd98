//! A [`Space`] presents the tensors of a call as one sequence of bytes, rank by rank. The MPI library never gets the
//! addresses of tensors, only copies of their bytes.
#![allow(unsafe_code)]

use std::ops::Range;

use c10d_core::reduce::{Kernel, kernel};
use c10d_core::{DType, OpKind, ReduceOp, Span};
use smallvec::SmallVec;

use crate::mpi::Staging;
use crate::task::{Gate, Task};

/// Parts of tensors, one after the other.
pub(crate) struct Space {
    /// The address of each part, and the offset of the part in the sequence.
    parts: SmallVec<[(*mut u8, usize); 1]>,
    len: usize,
    /// The gate of the job's memory. Once it is closed, no code may use the memory.
    gate: Gate,
}

// SAFETY: a space has only addresses and numbers. The memory at the addresses belongs to the job, which is `Send`.
unsafe impl Send for Space {}

impl Space {
    fn through(gate: Gate) -> Space {
        Space { parts: SmallVec::new(), len: 0, gate }
    }

    pub(crate) fn empty() -> Space {
        Space::through(Gate::OPEN)
    }

    /// Makes a space of whole tensors in host memory.
    ///
    /// # Safety
    /// While the gate is open, the memory of the spans is valid, only spaces of the same op use it, and no code writes
    /// to spaces of read-only spans.
    unsafe fn of<'a>(spans: impl IntoIterator<Item = &'a Span>, gate: &Gate) -> Space {
        let mut space = Space::through(gate.clone());
        for span in spans {
            // SAFETY: the range is the whole span; the caller guarantees the rest.
            unsafe { space.add(span, 0..span.bytes()) };
        }
        space
    }

    /// Makes a space of tensors that each have one block per rank of the `world`: first the blocks of rank 0, in the
    /// order of the tensors, then those of rank 1, and so on.
    ///
    /// # Safety
    /// The same as for [`Space::of`].
    unsafe fn by_rank(spans: &[Span], world: usize, gate: &Gate) -> Space {
        let mut space = Space::through(gate.clone());
        for rank in 0..world {
            for span in spans {
                let len = span.bytes() / world;
                // SAFETY: the range is within the span; the caller guarantees the rest.
                unsafe { space.add(span, rank * len..(rank + 1) * len) };
            }
        }
        space
    }

    /// Appends a range of a span.
    ///
    /// # Safety
    /// The same as for [`Space::of`]; the range is within the span.
    unsafe fn add(&mut self, span: &Span, range: Range<usize>) {
        // Dispatch gives this backend only host memory.
        if let (Some(at), false) = (span.host_ptr(), range.is_empty()) {
            self.parts.push((at.wrapping_add(range.start), self.len));
            self.len += range.len();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the pieces of a range: the address of each, and its place in the range.
    fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (*mut u8, Range<usize>)> + '_ {
        let first = self.parts.partition_point(|(_, start)| *start <= range.start).saturating_sub(1);
        let ends = self.parts.iter().skip(1).map(|(_, start)| *start).chain([self.len]);
        let parts = self.parts.iter().zip(ends).skip(first);
        let (from, to) = (range.start, range.end.min(self.len));
        parts.take_while(move |((_, start), _)| *start < to).filter_map(move |((at, start), end)| {
            let (a, b) = (from.max(*start), to.min(end));
            (a < b).then(|| (at.wrapping_add(a - start), a - from..b - from))
        })
    }

    /// Copies a range to `into`. If the gate is closed, because the group has failed, `into` stays unchanged.
    pub(crate) fn read(&self, range: Range<usize>, into: &mut [u8]) {
        let Some(_open) = self.gate.pass() else { return };
        for (at, place) in self.pieces(range) {
            let into = &mut into[place];
            // SAFETY: the piece has as many bytes as `into`. The gate is open, so the memory is valid, as the caller of
            // `Space::of` guarantees.
            unsafe { std::ptr::copy(at, into.as_mut_ptr(), into.len()) };
        }
    }

    /// Copies `from` into a range. If the gate is closed, the range stays unchanged.
    pub(crate) fn write(&self, range: Range<usize>, from: &[u8]) {
        let Some(_open) = self.gate.pass() else { return };
        for (at, place) in self.pieces(range) {
            let from = &from[place];
            // SAFETY: the piece has as many bytes as `from`. The gate is open, so the memory is valid and writable, as
            // the caller of `Space::of` guarantees.
            unsafe { std::ptr::copy(from.as_ptr(), at, from.len()) };
        }
    }

    /// Copies a range of another space of the same op to the offset `to` of this space. The two ranges may overlap.
    pub(crate) fn copy_from(&self, to: usize, other: &Space, range: Range<usize>) {
        let Some(_open) = self.gate.pass() else { return };
        for (from, place) in other.pieces(range) {
            for (at, part) in self.pieces(to + place.start..to + place.end) {
                // SAFETY: both pieces have at least as many bytes as the part. The gate, which both spaces share, is
                // open, so their memory is valid, as the caller of `Space::of` guarantees.
                unsafe { std::ptr::copy(from.wrapping_add(part.start), at, part.len()) };
            }
        }
    }

    /// Returns the address of a range if the range is in one piece.
    fn contiguous(&self, range: Range<usize>) -> Option<*mut u8> {
        let len = range.len();
        self.pieces(range).next().filter(|(_, piece)| piece.len() == len).map(|(at, _)| at)
    }
}

/// Returns the memory from which a message is sent.
pub(crate) fn source(task: &Task) -> Space {
    // SAFETY: the spans are valid until the job is completed. A thread that completes the job while another thread
    // works on it closes the gate first. The space is only read.
    unsafe { Space::of(&task.inputs, &task.gate) }
}

/// Returns the memory into which a message is received.
pub(crate) fn target(task: &Task) -> Space {
    // SAFETY: the spans are valid until the job is completed. A thread that completes the job while another thread
    // works on it closes the gate first. No other code uses the job's outputs.
    unsafe { Space::of(&task.outputs, &task.gate) }
}

/// Returns the input and output tensors of a collective, each as one space, rank by rank.
pub(crate) fn spaces(task: &Task, world: usize) -> (Space, Space) {
    let Task { inputs, outputs, gate, .. } = task;
    // SAFETY: the spans are valid until the job is completed. A thread that completes the job while another thread
    // works on it closes the gate first. No other code uses the job's outputs. The input space is only read.
    unsafe {
        let input = match task.op {
            OpKind::ReduceScatterIntoCoalesced => Space::by_rank(inputs, world, gate),
            _ => Space::of(inputs, gate),
        };
        let output = match task.op {
            OpKind::AllGatherIntoCoalesced => Space::by_rank(outputs, world, gate),
            OpKind::AllGatherCoalesced => {
                Space::of((0..world).flat_map(|p| outputs.iter().skip(p).step_by(world)), gate)
            }
            _ => Space::of(outputs, gate),
        };
        (input, output)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Reduction {
    kernel: Kernel,
    /// The factor of a premultiplied sum, or the divisor of an average.
    scale: f64,
    /// The size of an element in bytes.
    pub(crate) elem: usize,
}

impl Reduction {
    /// Makes a reduction that combines one value from each of the `world` ranks. Returns `None` if `op` is not defined
    /// for the type.
    pub(crate) fn new(op: ReduceOp, dtype: DType, world: u32) -> Option<Reduction> {
        let scale = if let ReduceOp::PreMulSum(factor) = op { factor } else { f64::from(world) };
        Some(Reduction { kernel: kernel(op, dtype, true)?, scale, elem: dtype.size() })
    }

    /// Reduces the same elements of all ranks, in rank order, and writes the result to `to`. `own` is this rank's space
    /// and range, and may be the same memory as `to`. `others` has the received bytes of each rank, and `None` in this
    /// rank's place.
    pub(crate) fn run(&self, own: (&Space, Range<usize>), others: &[Option<&[u8]>], to: (&Space, Range<usize>)) {
        let len = own.1.len();
        debug_assert!(others.iter().flatten().all(|other| other.len() == len) && to.1.len() == len);
        let contiguous = own.0.contiguous(own.1.clone()).zip(to.0.contiguous(to.1.clone()));
        if let Some((own, at)) = contiguous {
            let Some(_open) = to.0.gate.pass() else { return };
            let sources: SmallVec<[*const u8; 8]> =
                others.iter().map(|other| other.map_or(own.cast_const(), <[u8]>::as_ptr)).collect();
            // SAFETY: each source is readable, and the target writable, for this number of bytes: the gate is open, and
            // all lengths are equal. Dispatch ensures that the target either is the rank's own input or does not
            // overlap it.
            return unsafe { (self.kernel)(at, &sources, len / self.elem, self.scale) };
        }
        let mut mine = Staging::new(len);
        own.0.read(own.1, mine.bytes_mut());
        let at = mine.bytes_mut().as_mut_ptr();
        let sources: Vec<*const u8> =
            others.iter().map(|other| other.map_or(at.cast_const(), <[u8]>::as_ptr)).collect();
        // SAFETY: the target and all sources have `len` bytes. The target is this rank's own input.
        unsafe { (self.kernel)(at, &sources, len / self.elem, self.scale) };
        to.0.write(to.1, mine.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_can_extend_over_several_tensors() {
        let (mut a, mut b, mut c) = ([1u8, 2, 3], [0u8; 0], [4u8, 5]);
        let spans = [Span::host(a.as_mut_ptr(), 3), Span::host(b.as_mut_ptr(), 0), Span::host(c.as_mut_ptr(), 2)];
        // SAFETY: the arrays outlive the space.
        let space = unsafe { Space::of(&spans, &Gate::OPEN) };
        let read = |range: Range<usize>| {
            let mut out = vec![0; range.len()];
            space.read(range, &mut out);
            out
        };
        assert_eq!((space.len(), read(0..5), read(2..4), read(3..5)), (5, vec![1, 2, 3, 4, 5], vec![3, 4], vec![4, 5]));
        assert_eq!((read(5..5), read(1..1)), (vec![], vec![]));
        assert!(
            space.contiguous(0..3).is_some() && space.contiguous(3..5).is_some() && space.contiguous(2..4).is_none()
        );
        space.write(2..4, &[9, 8]);
        assert_eq!(read(0..5), [1, 2, 9, 8, 5]);
        space.copy_from(0, &space, 2..5);
        assert_eq!(read(0..3), [9, 8, 5]);
    }

    #[test]
    fn blocks_are_ordered_by_rank() {
        let (mut a, mut b) = ([1u8, 2, 3, 4], [5u8, 6]);
        let spans = [Span::host(a.as_mut_ptr(), 4), Span::host(b.as_mut_ptr(), 2)];
        // SAFETY: the arrays outlive the space.
        let space = unsafe { Space::by_rank(&spans, 2, &Gate::OPEN) };
        let mut out = [0; 6];
        space.read(0..6, &mut out);
        assert_eq!(out, [1, 2, 5, 3, 4, 6]);
    }

    #[test]
    fn values_are_reduced_in_the_order_of_the_ranks() {
        let (mut mine, mut target) = ([1e8f32, 1.0], [0f32; 2]);
        let others = [[1.0f32, 2.0], [-1e8, 3.0]];
        let bytes = others.map(|o| o.map(f32::to_ne_bytes).concat());
        // SAFETY: the arrays outlive the spaces.
        let (own, to) = unsafe {
            (
                Space::of(&[Span::host(mine.as_mut_ptr(), 2)], &Gate::OPEN),
                Space::of(&[Span::host(target.as_mut_ptr(), 2)], &Gate::OPEN),
            )
        };
        let sum = Reduction::new(ReduceOp::Sum, DType::F32, 3).unwrap();
        sum.run((&own, 0..8), &[Some(&bytes[0]), None, Some(&bytes[1])], (&to, 0..8));
        assert_eq!(target, [(1.0f32 + 1e8) + -1e8, 6.0]);
    }
}
