//! The entries of one rank: sorted keys without duplicates, with their rows. The key of an entry is its coordinates as
//! one number.

use std::sync::Arc;

use c10d_core::backend::Request;
use c10d_core::buffer::CooLayout;
use c10d_core::{DType, Error, Result};

use super::bench::{Bench, Tensor};
use super::form::Form;
use super::steps::{self, NONE, Space};

/// Sorted entries in device memory.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    pub(super) keys: Tensor,
    /// One row for each key.
    pub(super) rows: Tensor,
}

/// Coordinates that all ranks know (`sparse_indices`), and the positions of this rank's entries among them.
pub(super) struct KnownIndices {
    pub(super) indices: Tensor,
    pub(super) places: Tensor,
}

/// The data of a call that the worker's thread needs.
#[derive(Clone)]
pub(super) struct SparseCall {
    pub(super) layout: CooLayout,
    pub(super) form: Form,
    pub(super) indices: Tensor,
    pub(super) values: Tensor,
    pub(super) known: Option<Arc<[i64]>>,
}

impl SparseCall {
    pub(super) fn of(request: &Request) -> Result<SparseCall> {
        let layout = request.sparse().ok_or_else(|| Error::invalid("this kernel is for sparse tensors"))?.clone();
        let tensor = |i: usize| request.inputs().get(i).and_then(Tensor::of);
        let (Some(values), Some(indices)) = (tensor(0), tensor(1)) else {
            return Err(Error::invalid("the sparse tensor is not on a CUDA device"));
        };
        let form = Form::of(values.dtype, request.params.reduce)?;
        let known = request.params.sparse_indices().cloned();
        Ok(SparseCall { layout, form, indices, values, known })
    }
}

/// Reads this rank's tensor and checks it.
///
/// # Errors
/// `InvalidArgument` if a coordinate is outside the tensor, if the tensor is marked as coalesced but is not, or if the
/// given `sparse_indices` are not valid or lack the coordinates of an entry.
pub(super) fn prepare(bench: &mut Bench, facts: &SparseCall) -> Result<(Space, Entries, Option<KnownIndices>)> {
    bench.is_open()?;
    let layout = &facts.layout;
    let sizes: Vec<u64> = layout.sparse_shape().iter().map(|size| *size as u64).collect();
    // The product does not overflow: `CooLayout::new` rejects a layout whose number of possible keys exceeds `usize`.
    let keys = sizes.iter().product();
    let space = Space { keys, dims: layout.sparse_dim, sizes: bench.upload_numbers(&sizes)? };
    let keys = bench.allocate(space.dtype(), layout.nnz)?;
    let flags = steps::flags(bench, 1)?;
    steps::linearise(bench, space, facts.indices, keys, flags)?;
    let said = bench.download_numbers(flags)?;
    if said[0] != NONE {
        return Err(outside(bench, layout, facts.indices, said[0] as usize)?);
    }
    let entries = match said[1] {
        NONE => Entries { keys, rows: facts.values },
        at if layout.coalesced => {
            let what = format!(
                "the tensor is marked as coalesced, but the coordinates of entry {at} are not greater than those of \
                 the entry before it"
            );
            return Err(Error::invalid(what));
        }
        _ => coalesce(bench, facts, keys)?,
    };
    let known = match &facts.known {
        Some(indices) => Some(known(bench, layout, space, indices, entries)?),
        None => None,
    };
    Ok((space, entries, known))
}

/// Makes the error that names the coordinate of an entry that is outside the tensor.
fn outside(bench: &mut Bench, layout: &CooLayout, indices: Tensor, entry: usize) -> Result<Error> {
    let nnz = indices.count / layout.sparse_dim;
    for (dim, size) in layout.sparse_shape().iter().enumerate() {
        let index = bench.download_numbers(indices.slice(dim * nnz + entry, 1)?)?[0] as i64;
        if index as u64 >= *size as u64 {
            let what = format!("index {index} of entry {entry} is not within 0..{size}, dimension {dim} of the tensor");
            return Ok(Error::invalid(what));
        }
    }
    Ok(Error::invalid(format!("entry {entry} is not in the tensor")))
}

/// Sorts entries. Their coordinates must be valid. Only the keys are copied to host memory, where this function sorts
/// them. Entries with the same coordinates are combined in their original order.
fn coalesce(bench: &mut Bench, facts: &SparseCall, keys: Tensor) -> Result<Entries> {
    let mut order: Vec<(u64, u64)> = bench.download_numbers(keys)?.into_iter().zip(0..).collect();
    // The positions differ, so no two pairs are equal, and equal keys keep their order.
    order.sort_unstable();
    let is_first = |i: &usize| *i == 0 || order[*i].0 != order[*i - 1].0;
    let mut starts: Vec<u64> = (0..order.len()).filter(is_first).map(|i| i as u64).collect();
    let different = starts.iter().map(|start| order[*start as usize].0);
    let bytes = match keys.dtype {
        DType::U32 => different.flat_map(|key| (key as u32).to_ne_bytes()).collect(),
        _ => different.flat_map(u64::to_ne_bytes).collect(),
    };
    let row = facts.layout.row;
    let rows = bench.allocate(facts.values.dtype, starts.len() * row)?;
    let keys = bench.upload(keys.dtype, bytes)?;
    starts.push(order.len() as u64);
    let places: Vec<u64> = order.into_iter().map(|(_, place)| place).collect();
    let (order, starts) = (bench.upload_numbers(&places)?, bench.upload_numbers(&starts)?);
    steps::merge(bench, facts.form, facts.values, (order, starts), row, rows)?;
    Ok(Entries { keys, rows })
}

/// Reads the indices that the caller gave, and finds this rank's entries among them.
fn known(bench: &mut Bench, layout: &CooLayout, space: Space, given: &[i64], entries: Entries) -> Result<KnownIndices> {
    let wrong = |what: &str| Error::invalid(format!("sparse_indices: {what}"));
    let indices = bench.upload(DType::I64, given.iter().flat_map(|index| index.to_ne_bytes()).collect())?;
    let keys = bench.allocate(space.dtype(), given.len() / layout.sparse_dim)?;
    let places = bench.allocate(DType::U64, entries.keys.count)?;
    let flags = steps::flags(bench, 1)?;
    steps::linearise(bench, space, indices, keys, flags)?;
    steps::locate(bench, space, entries.keys, keys, places, flags)?;
    let said = bench.download_numbers(flags)?;
    if said[0] != NONE {
        let e = outside(bench, layout, indices, said[0] as usize)?;
        return Err(wrong(&e.report().what));
    }
    if said[1] != NONE {
        return Err(wrong("the indices must be sorted, without duplicates"));
    }
    if said[2] != NONE {
        return Err(wrong("an entry of this rank's tensor is not among the indices"));
    }
    Ok(KnownIndices { indices, places })
}
