//! One measured configuration (point) of `all_reduce_sparse`: the entries per rank, their size, and the share that all
//! ranks have in common. A place is an index of the tensor's first dimension, at which an entry can be.

use serde::{Deserialize, Serialize};

/// The tensor's first dimension is this many times the number of entries of a rank.
pub(super) const PLACES: usize = 10;

/// The tensors that are reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SparsePoint {
    /// The number of entries of each rank.
    pub(super) nnz: usize,
    /// The number of elements of an entry.
    pub(super) row: usize,
    /// The share of a rank's entries that all ranks have in common, in percent. No other rank has the remaining entries
    /// of a rank.
    pub(super) overlap: usize,
}

impl SparsePoint {
    pub(super) fn words(self) -> String {
        format!("nnz {} row {} overlap {} %", self.nnz, self.row, self.overlap)
    }

    /// Returns the number of entries that all ranks have.
    pub(super) fn common(self) -> usize {
        self.nnz * self.overlap / 100
    }

    /// Returns the number of entries of the result.
    pub(super) fn union(self, ranks: u32) -> usize {
        self.common() + ranks as usize * (self.nnz - self.common())
    }

    /// Returns the bytes that a rank needs for the list of all places (which is sorted), the list of the result's
    /// entries, and the tensors. `element` is the size of an element in bytes.
    pub(super) fn bytes(self, ranks: u32, element: usize) -> u128 {
        let (nnz, union) = (self.nnz as u128, self.union(ranks) as u128);
        let entry = self.row as u128 * element as u128 + size_of::<i64>() as u128;
        nnz * PLACES as u128 * 16 + union * 32 + (2 * nnz + union) * entry
    }

    pub(super) fn fits(self, ranks: u32) -> bool {
        self.overlap <= 100 && self.union(ranks) <= self.nnz * PLACES
    }
}
