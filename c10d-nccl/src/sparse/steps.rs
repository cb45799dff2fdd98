//! Functions that launch CUDA kernels, with the checks of their inputs and outputs.
#![allow(unsafe_code)]

use c10d_core::{DType, Error, ErrorKind, Result};

use super::bench::{Bench, Tensor};
use super::form::Form;
use crate::kernels::sparse::{
    CHUNK, KEYED_U32, KEYED_U64, Keyed, SCAN, SUMS, fill as filler, merger, scatter as mover,
};

/// The value of a flag that is not set.
pub(super) const NONE: u64 = u64::MAX;
/// The number of flags of a list of keys. The flags are the positions of the first key that is outside the tensor, the
/// first key that is not in order, and the first key that is not among the known keys.
pub(super) const FLAGS: usize = 3;

/// The sparse dimensions of a tensor, which define its keys: the key of an entry is its coordinates as one number.
#[derive(Clone, Copy)]
pub(super) struct Space {
    /// The number of possible keys.
    pub(super) keys: u64,
    pub(super) dims: usize,
    /// The sizes of the sparse dimensions.
    pub(super) sizes: Tensor,
}

impl Space {
    /// The type of keys.
    pub(super) fn dtype(self) -> DType {
        if self.keys <= 1 << 32 { DType::U32 } else { DType::U64 }
    }

    fn kernels(self) -> &'static Keyed {
        if self.dtype() == DType::U32 { &KEYED_U32 } else { &KEYED_U64 }
    }
}

/// The sorted keys of all ranks: one list after another, each padded to the length of the longest.
#[derive(Clone, Copy)]
pub(super) struct Lists {
    pub(super) keys: Tensor,
    pub(super) longest: usize,
    /// The length of each list.
    pub(super) counts: Tensor,
}

impl Lists {
    fn count(self) -> usize {
        self.counts.count
    }
}

fn fits(what: bool) -> Result {
    if what { Ok(()) } else { Err(Error::new(ErrorKind::Internal, "a kernel's tensors do not fit each other")) }
}

/// Makes flags for this number of lists. No flag is set.
pub(super) fn flags(bench: &mut Bench, lists: usize) -> Result<Tensor> {
    bench.upload_numbers(&vec![NONE; FLAGS * lists])
}

/// Computes keys from indices. Sets flags if keys are outside the tensor or not in order.
pub(super) fn linearise(bench: &mut Bench, space: Space, indices: Tensor, keys: Tensor, flags: Tensor) -> Result {
    let (count, dims) = (keys.count, space.dims);
    fits(indices.count == count * dims && space.sizes.count == dims && keys.dtype == space.dtype())?;
    fits(flags.count == FLAGS)?;
    let arguments = [indices.at, count as u64, space.sizes.at, dims as u64, keys.at, flags.at];
    // SAFETY: the sizes were checked. In this function and all below, all tensors belong to the call.
    unsafe { bench.launch(&space.kernels().linearise, count, &arguments)? };
    check(bench, space, keys, flags)
}

/// Sets flags if keys are outside the tensor or not in order.
pub(super) fn check(bench: &mut Bench, space: Space, keys: Tensor, flags: Tensor) -> Result {
    fits(flags.count == FLAGS && keys.dtype == space.dtype())?;
    // SAFETY: see `linearise`.
    unsafe { bench.launch(&space.kernels().check, keys.count, &[keys.at, keys.count as u64, space.keys, flags.at]) }
}

/// Finds the positions of keys in a sorted list. Sets a flag if a key is not in the list.
pub(super) fn locate(
    bench: &mut Bench,
    space: Space,
    keys: Tensor,
    known: Tensor,
    places: Tensor,
    flags: Tensor,
) -> Result {
    fits(keys.count == places.count && keys.dtype == space.dtype() && known.dtype == space.dtype())?;
    fits(flags.count == FLAGS)?;
    let arguments = [keys.at, keys.count as u64, known.at, known.count as u64, places.at, flags.at];
    // SAFETY: see `linearise`.
    unsafe { bench.launch(&space.kernels().locate, keys.count, &arguments) }
}

/// Returns, for each position in the lists, how many keys before it count. A key counts only in the first list that has
/// it. The last number is the total.
pub(super) fn number(bench: &mut Bench, space: Space, lists: Lists) -> Result<Tensor> {
    let places = lists.keys.count;
    fits(places == lists.longest * lists.count() && lists.keys.dtype == space.dtype())?;
    let marks = bench.allocate(DType::U64, places + 1)?;
    let arguments = [lists.keys.at, lists.longest as u64, lists.counts.at, lists.count() as u64, marks.at];
    // SAFETY: see `linearise`.
    unsafe { bench.launch(&space.kernels().mark, places, &arguments)? };
    fill(bench, marks.slice(places, 1)?, DType::U64, 0)?;
    scan(bench, marks)?;
    Ok(marks)
}

/// Replaces each number by the sum of all numbers before it.
fn scan(bench: &mut Bench, numbers: Tensor) -> Result {
    let mut levels = vec![numbers];
    while let Some(last) = levels.last().copied().filter(|l| l.count > CHUNK) {
        let sums = bench.allocate(DType::U64, last.count.div_ceil(CHUNK))?;
        // SAFETY: see `linearise`; there is one sum for each chunk.
        unsafe { bench.launch(&SUMS, sums.count, &[last.at, last.count as u64, sums.at])? };
        levels.push(sums);
    }
    let mut bases = 0;
    for level in levels.into_iter().rev() {
        // SAFETY: see `linearise`; there is one base for each chunk, or there is only one chunk.
        unsafe { bench.launch(&SCAN, level.count.div_ceil(CHUNK), &[bases, level.at, level.count as u64])? };
        bases = level.at;
    }
    Ok(())
}

/// Finds the positions of keys in the union of all lists. Each key must be in one of the lists. `numbers` is the result
/// of [`number`].
pub(super) fn place(
    bench: &mut Bench,
    space: Space,
    keys: Tensor,
    lists: Lists,
    numbers: Tensor,
    places: Tensor,
) -> Result {
    fits(places.count == keys.count && numbers.count == lists.keys.count + 1 && keys.dtype == space.dtype())?;
    let (longest, count) = (lists.longest as u64, lists.count() as u64);
    let arguments = [keys.at, keys.count as u64, lists.keys.at, longest, lists.counts.at, count, numbers.at, places.at];
    // SAFETY: see `linearise`.
    unsafe { bench.launch(&space.kernels().place, keys.count, &arguments) }
}

/// Writes the union of the lists to `all`. [`check`] must have found no wrong key in the lists. `numbers` is the result
/// of [`number`], and its last number must be the number of keys in `all`.
pub(super) fn union(bench: &mut Bench, space: Space, lists: Lists, numbers: Tensor, all: Tensor) -> Result {
    fits(numbers.count == lists.keys.count + 1 && all.dtype == space.dtype())?;
    let (longest, count) = (lists.longest as u64, lists.count() as u64);
    let arguments = [lists.keys.at, longest, lists.counts.at, count, numbers.at, all.at];
    // SAFETY: see `linearise`; the last of `numbers` is the number of keys in `all`.
    unsafe { bench.launch(&space.kernels().union, lists.keys.count, &arguments) }
}

/// Computes indices from keys.
pub(super) fn gather(bench: &mut Bench, space: Space, keys: Tensor, indices: Tensor) -> Result {
    fits(indices.count == keys.count * space.dims && keys.dtype == space.dtype())?;
    let arguments = [keys.at, keys.count as u64, space.sizes.at, space.dims as u64, indices.at];
    // SAFETY: see `linearise`.
    unsafe { bench.launch(&space.kernels().gather, keys.count, &arguments) }
}

/// Sets all elements, taken as elements of type `part`, to the same bits.
pub(super) fn fill(bench: &mut Bench, to: Tensor, part: DType, bits: u64) -> Result {
    let count = to.bytes() / part.size();
    // SAFETY: see `linearise`.
    unsafe { bench.launch(filler(part.size()), count, &[bits, to.at, count as u64]) }
}

/// Copies rows to their positions, which must differ and be within `to`.
pub(super) fn scatter(bench: &mut Bench, form: Form, rows: Tensor, places: Tensor, row: usize, to: Tensor) -> Result {
    fits(rows.count == places.count * row && rows.dtype == to.dtype)?;
    let (count, row) = (places.count, row * form.parts);
    let arguments = [rows.at, places.at, count as u64, row as u64, to.at];
    // SAFETY: see `linearise`.
    unsafe { bench.launch(mover(form.part.size()), count * row, &arguments) }
}

/// Combines rows that have the same coordinates. Segment s consists of the rows `order[starts[s]..starts[s + 1]]`.
pub(super) fn merge(
    bench: &mut Bench,
    form: Form,
    rows: Tensor,
    (order, starts): (Tensor, Tensor),
    row: usize,
    out: Tensor,
) -> Result {
    let segments = starts.count.saturating_sub(1);
    fits(rows.count == order.count * row && out.count == segments * row && rows.dtype == out.dtype)?;
    let kernel = merger(form.part).ok_or_else(|| Error::unsupported(format!("no kernel merges {}", rows.dtype)))?;
    let row = row * form.parts;
    let op = u64::from(form.op.code());
    let arguments = [op, rows.at, order.at, starts.at, segments as u64, row as u64, out.at];
    // SAFETY: see `linearise`.
    unsafe { bench.launch(kernel, segments * row, &arguments) }
}
