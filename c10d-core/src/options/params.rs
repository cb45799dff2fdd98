//! The scalar arguments of a call, in one form for all ops.

use std::sync::Arc;

use super::Absent;
use crate::types::ReduceOp;

/// The scalar arguments of a call. Fields that the op does not use have their default values.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Params {
    /// How values are combined.
    pub reduce: ReduceOp,
    /// The rank that is the root.
    pub root: u32,
    /// The index of the root's tensor, for PyTorch's ranks with several tensors. It must be 0: a rank of c10d has one
    /// tensor.
    pub root_tensor: u32,
    /// The other rank of a point-to-point op.
    pub peer: u32,
    /// The tag of a point-to-point op.
    pub tag: u32,
    /// The op runs after the work on this device stream. 0 means the device's default stream, or no stream.
    pub stream: u64,
    /// Whether a monitored barrier names every missing rank, not just the first.
    pub wait_all_ranks: bool,
    pub(crate) rare: Option<Box<Rare>>,
}

/// The arguments that few calls have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rare {
    pub(crate) input_splits: Vec<usize>,
    pub(crate) output_splits: Vec<usize>,
    pub(crate) device_ids: Vec<u16>,
    pub(crate) sparse_indices: Option<Arc<[i64]>>,
    pub(crate) absent: Absent,
    pub(crate) agreed_count: u64,
}

impl Params {
    /// The value of `root` until the call is run or started, if the calling rank is the root.
    pub(crate) const ROOT_IS_ME: u32 = u32::MAX;

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Sets how many elements of the buffers of an `all_to_all_single` belong to each rank. An empty list means equal
    /// parts.
    pub fn set_splits(&mut self, input: Vec<usize>, output: Vec<usize>) {
        if !(input.is_empty() && output.is_empty()) {
            let rare = self.rare();
            (rare.input_splits, rare.output_splits) = (input, output);
        }
    }

    /// Converts the split sizes from elements of `bytes` bytes each to bytes.
    pub(crate) fn scale_splits(&mut self, bytes: usize) {
        if let Some(rare) = &mut self.rare {
            // A saturated size is larger than any memory, so validation rejects it.
            rare.input_splits.iter_mut().chain(&mut rare.output_splits).for_each(|n| *n = n.saturating_mul(bytes));
        }
    }

    /// Returns how many elements of the input go to each rank. Empty means equal parts.
    #[inline]
    pub fn input_splits(&self) -> &[usize] {
        self.rare.as_ref().map_or(&[], |r| &r.input_splits)
    }

    /// Returns how many elements of the output come from each rank. Empty means equal parts.
    #[inline]
    pub fn output_splits(&self) -> &[usize] {
        self.rare.as_ref().map_or(&[], |r| &r.output_splits)
    }

    /// Returns the device indices of a barrier; see [`BarrierOptions`](crate::options::BarrierOptions::device_ids).
    #[inline]
    pub fn device_ids(&self) -> &[u16] {
        self.rare.as_ref().map_or(&[], |r| &r.device_ids)
    }

    /// Returns the number that [`Call::agreed_count`](crate::Call::agreed_count) has set, or 0. The number must be
    /// equal on all ranks.
    pub fn agreed_count(&self) -> u64 {
        self.rare.as_ref().map_or(0, |r| r.agreed_count)
    }

    /// Returns how a sparse all-reduce treats an entry that is missing on a rank.
    pub fn absent(&self) -> Absent {
        self.rare.as_ref().map_or(Absent::default(), |r| r.absent)
    }

    /// Returns the indices of the result of a sparse all-reduce (sparse_dim × nnz), if the caller gave them.
    pub fn sparse_indices(&self) -> Option<&Arc<[i64]>> {
        self.rare.as_ref().and_then(|r| r.sparse_indices.as_ref())
    }
}
