//! The stores of groups, by number. A plugin that uses a number after the group's end gets an error. (A pointer would
//! lead to freed memory.)

use std::collections::BTreeMap;
use std::sync::Arc;

use c10d_core::Store;
use c10d_core::panics::contain;
use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;

/// The last number that was assigned, and the stores by number.
type Numbered = (u64, BTreeMap<u64, Arc<dyn Store>>);

static STORES: PerProcess<Mutex<Numbered>> = PerProcess::new();

/// The number of a store, until the lease is dropped.
pub(super) struct Lease(pub(super) u64);

pub(super) fn lease(store: Arc<dyn Store>) -> Lease {
    let mut stores = STORES.get().lock();
    stores.0 += 1;
    let number = stores.0;
    stores.1.insert(number, store);
    Lease(number)
}

pub(super) fn find(number: u64) -> Option<Arc<dyn Store>> {
    STORES.get().lock().1.get(&number).cloned()
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The store is dropped outside the lock, because its drop may take long.
        let store = STORES.get().lock().1.remove(&self.0);
        contain("the drop of a store", || drop(store));
    }
}
