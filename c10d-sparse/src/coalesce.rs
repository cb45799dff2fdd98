//! Sorts the entries of one rank, and combines duplicates.

use std::borrow::Cow;

use c10d_core::buffer::CooLayout;
use c10d_core::{Error, Result};

use crate::fold::By;
use crate::keys::{Key, is_coalesced, linearise};
use crate::memory::{room_for, zeroed};
use crate::value::Value;

/// Entries without duplicates, in the order of their keys.
pub(crate) struct Entries<'a, K, V: Value> {
    pub(crate) keys: Vec<K>,
    /// One row for each key.
    pub(crate) values: Cow<'a, [V]>,
}

/// Sorts the entries of a tensor. Entries with the same coordinates are combined in their original order.
///
/// # Errors
/// `InvalidArgument` if a coordinate is outside the tensor, or if the tensor is marked as coalesced but is not.
pub(crate) fn coalesce<'a, K: Key, V: Value>(
    by: &By<K, V>,
    layout: &CooLayout,
    indices: &[i64],
    values: &'a [V],
) -> Result<Entries<'a, K, V>> {
    let keys: Vec<K> = linearise(layout, indices)?;
    if is_coalesced(&keys) {
        return Ok(Entries { keys, values: Cow::Borrowed(values) });
    }
    if layout.coalesced {
        let at = keys.windows(2).position(|pair| pair[0] >= pair[1]).map_or(0, |at| at + 1);
        let what = format!(
            "the tensor is marked as coalesced, but the coordinates of entry {at} are not greater than those of the \
             entry before it"
        );
        return Err(Error::invalid(what));
    }
    let mut order = room_for(keys.len())?;
    order.extend(keys.into_iter().zip(0..));
    // Pairs with the same key are sorted by their positions.
    order.sort_unstable();
    let mut keys: Vec<K> = room_for(order.len())?;
    keys.extend(order.iter().map(|(key, _)| *key));
    keys.dedup();
    let row = layout.row;
    let mut out = zeroed::<V>(keys.len(), row)?;
    (by.merge)(&order, values, row, &mut out)?;
    Ok(Entries { keys, values: Cow::Owned(out) })
}
