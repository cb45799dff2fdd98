//! Tests of the ids of communicators with many ranks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use c10d_core::{HashStore, Store};

use super::mock::{Log, Mock};
use crate::bootstrap::Ids;
use crate::dialect::Dialect;
use crate::nccl::UniqueId;

fn ids(mock: &Mock, size: u32) -> Ids {
    Ids::of_all(mock, &Dialect::Native, size)
}

/// Returns the ids that each rank has after the exchange. `old` means that the library takes only one id.
fn ids_of_all(size: u32, old: bool) -> Vec<Vec<UniqueId>> {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|s| {
        let rank = |rank: u32| {
            let store = store.clone();
            move || {
                let mock = Mock {
                    log: Log::default(),
                    next: AtomicU64::new(u64::from(rank) + 1),
                    old,
                    slow: false,
                    group_end: None,
                };
                ids(&mock, size).exchange(&mock, &*store, rank, deadline).unwrap()
            }
        };
        let ranks: Vec<_> = (0..size).map(|r| s.spawn(rank(r))).collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

#[test]
fn there_is_one_root_for_each_128_ranks() {
    let all = ids_of_all(130, false);
    assert_eq!(all[0].len(), 2);
    assert!(all.iter().all(|ids| *ids == all[0]), "the same on all ranks");
    // Ranks 0 and 65 have made the ids: the first byte of rank r's id is r + 1.
    assert_eq!((all[0][0].0[0], all[0][1].0[0]), (1, 66));
    assert_eq!(ids_of_all(128, false)[5].len(), 1);
    assert_eq!(ids_of_all(130, true)[5].len(), 1, "with an older library there is one id");
}

#[test]
fn a_root_that_made_no_id_is_named() {
    let mock = Mock { log: Log::default(), next: AtomicU64::new(1), old: false, slow: false, group_end: None };
    let soon = Instant::now() + Duration::from_millis(50);
    let e = ids(&mock, 4).exchange(&mock, &HashStore::new(), 1, soon).unwrap_err();
    assert_eq!(e.report().guilty, [0], "{e}");
}
