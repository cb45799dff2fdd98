//! Coordinates of the result that the caller gives (`sparse_indices`).

use c10d_core::buffer::CooLayout;
use c10d_core::{Error, Result};

use crate::coalesce::Entries;
use crate::keys::{Key, is_coalesced, linearise};
use crate::value::Value;

/// Returns the keys of the given indices, or an error if an entry of this rank is not among them.
pub(crate) fn known<K: Key, V: Value>(
    layout: &CooLayout,
    indices: &[i64],
    local: &Entries<'_, K, V>,
) -> Result<Vec<K>> {
    let wrong = |what: &str| Error::invalid(format!("sparse_indices: {what}"));
    let keys: Vec<K> = linearise(layout, indices).map_err(|e| wrong(&e.report().what))?;
    if !is_coalesced(&keys) {
        return Err(wrong("the indices must be sorted, without duplicates"));
    }
    let mut rest = keys.iter();
    if !local.keys.iter().all(|key| rest.any(|known| known == key)) {
        return Err(wrong("an entry of this rank's tensor is not among the indices"));
    }
    Ok(keys)
}
