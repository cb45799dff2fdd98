//! The scalar arguments of a call, in one form for all ops.

use std::sync::Arc;

use super::Absent;
use crate::types::ReduceOp;

/// The scalar arguments of a call. Fields that the op does not use have neutral values.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Params {
    /// How values are combined.
    pub reduce: ReduceOp,
    /// The root.
    pub root: u32,
    /// Which tensor of the list is the root's; only 0 exists, as in c10d's backends.
    pub root_tensor: u32,
    /// The other rank of a point-to-point op.
    pub peer: u32,
    /// The tag of a point-to-point op.
    pub tag: u32,
    /// The device stream behind which the op runs; 0 = the device's default, or none.
    pub stream: u64,
    /// Whether a monitored barrier names every missing rank, not just the first.
    pub wait_all_ranks: bool,
    pub(crate) rare: Option<Box<Rare>>,
}

/// The arguments that few calls have, behind one pointer.
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
    /// The root of a call that has not been issued yet, if the issuing rank is the root.
    pub(crate) const ROOT_IS_ME: u32 = u32::MAX;

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Cuts the buffers of an `all_to_all_single` into these many elements per rank; empty = equal parts.
    pub fn set_splits(&mut self, input: Vec<usize>, output: Vec<usize>) {
        if !(input.is_empty() && output.is_empty()) {
            let rare = self.rare();
            (rare.input_splits, rare.output_splits) = (input, output);
        }
    }

    /// Converts splits from elements of this many bytes to bytes.
    pub(crate) fn scale_splits(&mut self, bytes: usize) {
        if let Some(rare) = &mut self.rare {
            // Validation rejects sizes that no memory can have.
            rare.input_splits.iter_mut().chain(&mut rare.output_splits).for_each(|n| *n = n.saturating_mul(bytes));
        }
    }

    /// Elements of the input that go to each rank; empty = equal parts.
    #[inline]
    pub fn input_splits(&self) -> &[usize] {
        self.rare.as_ref().map_or(&[], |r| &r.input_splits)
    }

    /// Elements of the output that come from each rank; empty = equal parts.
    #[inline]
    pub fn output_splits(&self) -> &[usize] {
        self.rare.as_ref().map_or(&[], |r| &r.output_splits)
    }

    /// The devices that a barrier is told to use.
    #[inline]
    pub fn device_ids(&self) -> &[u16] {
        self.rare.as_ref().map_or(&[], |r| &r.device_ids)
    }

    /// A number that must be equal on all ranks, for a call whose sizes may differ between ranks; 0 = none.
    pub fn agreed_count(&self) -> u64 {
        self.rare.as_ref().map_or(0, |r| r.agreed_count)
    }

    /// What the entries of a sparse tensor count as that a rank does not have.
    pub fn absent(&self) -> Absent {
        self.rare.as_ref().map_or(Absent::default(), |r| r.absent)
    }

    /// The indices of a sparse all-reduce that all ranks share, sparse_dim × nnz.
    pub fn sparse_indices(&self) -> Option<&Arc<[i64]>> {
        self.rare.as_ref().and_then(|r| r.sparse_indices.as_ref())
    }
}
