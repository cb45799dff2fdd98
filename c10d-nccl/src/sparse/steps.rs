//! The calls of kernels, with their inputs and outputs.
#![allow(unsafe_code)]

use c10d_core::{DType, Error, ErrorKind, Result};

use super::bench::{Bench, Tensor};
use super::form::Form;
use crate::kernels::sparse::{
    CHUNK, KEYED_U32, KEYED_U64, Keyed, SCAN, SUMS, fill as filler, merger, scatter as mover,
};

/// The value of a flag that is not set.
pub(super) const NONE: u64 = u64::MAX;
/// The number of flags of a check: the first entry that is outside of the tensor, that is out of order, and that is not
/// among the known ones.
pub(super) const FLAGS: usize = 3;

/// A tensor's coordinates and keys.
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

/// The sorted keys of the ranks as consecutive lists, each padded to the longest.
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

/// Makes flags that are not set, for this number of lists.
pub(super) fn flags(bench: &mut Bench, lists: usize) -> Result<Tensor> {
    bench.upload_numbers(&vec![NONE; FLAGS * lists])
}

/// Computes keys from indices, and checks that they are in the tensor and in order.
pub(super) fn linearise(bench: &mut Bench, space: Space, indices: Tensor, keys: Tensor, flags: Tensor) -> Result {
    let (count, dims) = (keys.count, space.dims);
    fits(indices.count == count * dims && space.sizes.count == dims && keys.dtype == space.dtype())?;
    fits(flags.count == FLAGS)?;
    let arguments = [indices.at, count as u64, space.sizes.at, dims as u64, keys.at, flags.at];
    // SAFETY: the sizes were checked; here and below all tensors belong to the call.
    unsafe { bench.launch(&space.kernels().linearise, count, &arguments)? };
    check(bench, space, keys, flags)
}

/// Checks that keys are in the tensor and in order.
pub(super) fn check(bench: &mut Bench, space: Space, keys: Tensor, flags: Tensor) -> Result {
    fits(flags.count == FLAGS && keys.dtype == space.dtype())?;
    // SAFETY: as above.
    unsafe { bench.launch(&space.kernels().check, keys.count, &[keys.at, keys.count as u64, space.keys, flags.at]) }
}

/// Finds the positions of keys in a sorted list.
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
    // SAFETY: as above.
    unsafe { bench.launch(&space.kernels().locate, keys.count, &arguments) }
}

/// Counts the different keys before each position of the lists, and in total.
pub(super) fn number(bench: &mut Bench, space: Space, lists: Lists) -> Result<Tensor> {
    let places = lists.keys.count;
    fits(places == lists.longest * lists.count() && lists.keys.dtype == space.dtype())?;
    let marks = bench.allocate(DType::U64, places + 1)?;
    let arguments = [lists.keys.at, lists.longest as u64, lists.counts.at, lists.count() as u64, marks.at];
    // SAFETY: as above.
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
        // SAFETY: as above; there is one sum for each chunk.
        unsafe { bench.launch(&SUMS, sums.count, &[last.at, last.count as u64, sums.at])? };
        levels.push(sums);
    }
    let mut bases = 0;
    for level in levels.into_iter().rev() {
        // SAFETY: as above; there is one base for each chunk, or only one chunk.
        unsafe { bench.launch(&SCAN, level.count.div_ceil(CHUNK), &[bases, level.at, level.count as u64])? };
        bases = level.at;
    }
    Ok(())
}

/// Finds the positions of keys, which are in one of the lists, in the union of all lists.
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
    // SAFETY: as above.
    unsafe { bench.launch(&space.kernels().place, keys.count, &arguments) }
}

/// Writes the union of the lists, which were checked. The number of its keys is known from `numbers`.
pub(super) fn union(bench: &mut Bench, space: Space, lists: Lists, numbers: Tensor, all: Tensor) -> Result {
    fits(numbers.count == lists.keys.count + 1 && all.dtype == space.dtype())?;
    let (longest, count) = (lists.longest as u64, lists.count() as u64);
    let arguments = [lists.keys.at, longest, lists.counts.at, count, numbers.at, all.at];
    // SAFETY: as above.
    unsafe { bench.launch(&space.kernels().union, lists.keys.count, &arguments) }
}

/// Computes the indices of keys.
pub(super) fn gather(bench: &mut Bench, space: Space, keys: Tensor, indices: Tensor) -> Result {
    fits(indices.count == keys.count * space.dims && keys.dtype == space.dtype())?;
    let arguments = [keys.at, keys.count as u64, space.sizes.at, space.dims as u64, indices.at];
    // SAFETY: as above.
    unsafe { bench.launch(&space.kernels().gather, keys.count, &arguments) }
}

/// Writes the same bits to all elements, taken as elements of `part`.
pub(super) fn fill(bench: &mut Bench, to: Tensor, part: DType, bits: u64) -> Result {
    let count = to.bytes() / part.size();
    // SAFETY: as above.
    unsafe { bench.launch(filler(part.size()), count, &[bits, to.at, count as u64]) }
}

/// Copies rows to their positions, which are different and within `to`.
pub(super) fn scatter(bench: &mut Bench, form: Form, rows: Tensor, places: Tensor, row: usize, to: Tensor) -> Result {
    fits(rows.count == places.count * row && rows.dtype == to.dtype)?;
    let (count, row) = (places.count, row * form.parts);
    let arguments = [rows.at, places.at, count as u64, row as u64, to.at];
    // SAFETY: as above.
    unsafe { bench.launch(mover(form.part.size()), count * row, &arguments) }
}

/// Combines rows with the same coordinates: segment s consists of `order` from `starts[s]` to `starts[s + 1]`.
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
    // SAFETY: as above.
    unsafe { bench.launch(kernel, segments * row, &arguments) }
}
