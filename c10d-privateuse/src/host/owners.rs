//! Counts the owners of device memory. If the caller frees memory that an operation uses, the memory remains allocated
//! until the operation ends.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use c10d_core::sync::Mutex;

/// The number of owners of each allocation, by device and base.
#[derive(Default)]
pub(super) struct Owners(Mutex<HashMap<(u16, usize), u64>>);

/// Whether an allocation has owners after one owner was removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    Somebody,
    Nobody,
    /// The allocation is not counted here.
    Unknown,
}

impl Owners {
    /// Registers memory that was just allocated. Returns `false` if it has owners already.
    pub(super) fn first(&self, index: u16, base: usize) -> bool {
        match self.0.lock().entry((index, base)) {
            Entry::Vacant(place) => *place.insert(1) == 1,
            Entry::Occupied(_) => false,
        }
    }

    /// Adds an owner. Returns `false` if the memory is not counted here.
    pub(super) fn more(&self, index: u16, base: usize) -> bool {
        self.0.lock().get_mut(&(index, base)).map(|owners| *owners += 1).is_some()
    }

    pub(super) fn less(&self, index: u16, base: usize) -> Left {
        let mut all = self.0.lock();
        match all.get_mut(&(index, base)) {
            None => Left::Unknown,
            Some(1) => {
                all.remove(&(index, base));
                Left::Nobody
            }
            Some(owners) => {
                *owners -= 1;
                Left::Somebody
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_the_last_owner_is_reported() {
        let owners = Owners::default();
        assert!(owners.first(0, 64) && !owners.first(0, 64));
        assert!(owners.first(1, 64), "another device has its own memory at this base");
        assert!(owners.more(0, 64) && !owners.more(0, 128));
        assert_eq!(owners.less(0, 64), Left::Somebody);
        assert_eq!(owners.less(0, 64), Left::Nobody);
        assert_eq!(owners.less(0, 64), Left::Unknown);
        assert!(owners.first(0, 64), "the freed base can be allocated again");
    }
}
