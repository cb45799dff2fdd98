//! The list of allocations of device memory, with their owners and holders.

use std::collections::BTreeMap;

use c10d_core::sync::Mutex;

/// The allocations by address. If an allocation has holders when its owner frees it, the memory is freed when the last
/// holder releases it.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<u64, Allocation>>);

struct Allocation {
    bytes: usize,
    holders: usize,
    freed: bool,
}

impl Ledger {
    /// Adds an allocation.
    pub(crate) fn add(&self, base: u64, bytes: usize) {
        self.0.lock().insert(base, Allocation { bytes, holders: 0, freed: false });
    }

    /// Called when the owner frees an allocation. Returns whether the caller must give the memory back to CUDA now.
    pub(crate) fn free(&self, base: u64) -> bool {
        let mut allocations = self.0.lock();
        match allocations.get_mut(&base) {
            Some(a) if a.holders > 0 => {
                a.freed = true;
                false
            }
            Some(_) => allocations.remove(&base).is_some(),
            None => false,
        }
    }

    /// Adds a holder to the allocation that contains this address. Returns `false` if there is no such allocation.
    pub(crate) fn retain(&self, address: u64) -> bool {
        let mut allocations = self.0.lock();
        let found = allocations.range_mut(..=address).next_back();
        match found {
            Some((base, a)) if address - base < a.bytes as u64 => {
                a.holders += 1;
                true
            }
            _ => false,
        }
    }

    /// Removes a holder. Returns the base address if the caller must give the memory back to CUDA now.
    pub(crate) fn release(&self, address: u64) -> Option<u64> {
        let mut allocations = self.0.lock();
        let (base, a) = allocations.range_mut(..=address).next_back()?;
        let base = *base;
        a.holders = a.holders.saturating_sub(1);
        (a.holders == 0 && a.freed).then(|| allocations.remove(&base)).flatten().map(|_| base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_freed_with_its_last_holder() {
        let ledger = Ledger::default();
        ledger.add(0x1000, 64);
        ledger.add(0x2000, 64);
        assert!(ledger.retain(0x1010) && ledger.retain(0x1000), "any address in an allocation can be retained");
        assert!(!ledger.retain(0x1040), "an address after the end of the allocation cannot be retained");
        assert!(!ledger.free(0x1000), "memory with holders is not freed");
        assert_eq!(ledger.release(0x1000), None);
        assert_eq!(ledger.release(0x1010), Some(0x1000));
        assert!(ledger.free(0x2000), "memory without holders is freed");
        assert!(!ledger.free(0x2000), "memory is freed only once");
    }
}
