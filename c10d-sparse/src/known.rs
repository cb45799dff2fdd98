//! All ranks know the result's coordinates beforehand: what is left is a dense sum of the rows.

use c10d_core::buffer::CooLayout;
use c10d_core::{Error, ReduceOp, Result, op};

use crate::coalesce::Entries;
use crate::fold::By;
use crate::keys::{Key, is_coalesced, linearise, space};
use crate::memory::zeroed;
use crate::run::Call;
use crate::union::{Piece, View};
use crate::value::Value;

/// The numbers of the result's entries.
pub(crate) struct Known<K> {
    pub(crate) keys: Vec<K>,
    /// Different for different ones, and not 0.
    pub(crate) hash: u64,
}

impl<K: Key> Known<K> {
    /// Reads the indices that the caller gave, and sees that this rank's entries are among them.
    pub(crate) fn new<V: Value>(layout: &CooLayout, indices: &[i64], local: &Entries<'_, K, V>) -> Result<Known<K>> {
        let wrong = |what: &str| Error::invalid(format!("sparse_indices: {what}"));
        let keys: Vec<K> = linearise(layout, indices).map_err(|e| wrong(&e.report().what))?;
        if !is_coalesced(&keys) {
            return Err(wrong("they must be sorted, each at most once"));
        }
        let mut rest = keys.iter();
        if !local.keys.iter().all(|key| rest.any(|known| known == key)) {
            return Err(wrong("an entry of this rank's tensor is not among them"));
        }
        let mix = |hash: u64, key: &K| (hash ^ key.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let hash = keys.iter().fold(keys.len() as u64, mix) | 1;
        Ok(Known { keys, hash })
    }
}

impl Call<'_> {
    /// Sums rows whose places all ranks know; `by` is the sum, since there is no other with known places.
    pub(crate) fn sum_known<K: Key, V: Value>(
        &self,
        by: &By<K, V>,
        indices: &[i64],
        known: Known<K>,
        local: &Entries<'_, K, V>,
    ) -> Result<(Vec<i64>, Vec<V>)> {
        let row = self.layout.row;
        let mut values = zeroed::<V>(known.keys.len(), row)?;
        let mut copy = zeroed::<i64>(indices.len(), 1)?;
        copy.copy_from_slice(indices);
        let mine = [(Piece::List(&local.keys[..]), &local.values[..])];
        (by.fold)(&(0..space(self.layout)), View::List(&known.keys), &mine, row, &mut values)?;
        if self.ctx.size() > 1 {
            self.ctx.run_step(self.request, 2, op::all_reduce(&mut values[..], ReduceOp::Sum))?;
        }
        Ok((copy, values))
    }
}
