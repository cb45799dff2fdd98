//! Tests the operations of `HashStore` and `PrefixStore` except `num_keys`, and the store that a backend gets.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use c10d_core::backend::GroupInit;
use c10d_core::{ErrorKind, HashStore, PrefixStore, Store};

use crate::common::{builder, puppet};

#[test]
fn hash_and_prefix_stores_do_all_operations() {
    let base = Arc::new(HashStore::new());
    let a = PrefixStore::new("a", base.clone());
    let now = Instant::now();
    a.set("k", b"1", now).unwrap();
    assert_eq!(base.get("a/k", now).unwrap(), b"1");
    assert_eq!((a.add("n", 5, now).unwrap(), a.add("n", -7, now).unwrap()), (5, -2));
    assert_eq!(*a.add("k2", i64::MAX, now).and_then(|_| a.add("k2", 1, now)).unwrap_err().kind(), ErrorKind::Store);
    a.append("k", b"23", now).unwrap();
    assert_eq!(a.compare_set("k", b"123", b"x", now).unwrap(), b"x");
    assert_eq!(a.compare_set("k", b"no", b"y", now).unwrap(), b"x");
    assert_eq!(a.compare_set("new", b"", b"z", now).unwrap(), b"z");
    assert_eq!(a.compare_set("newer", b"e", b"z", now).unwrap(), b"e");
    assert!(!a.check(&["k", "newer"], now).unwrap());
    a.multi_set(&[("p", b"1"), ("q", b"2")], now).unwrap();
    assert_eq!(a.multi_get(&["q", "p"], now).unwrap(), [b"2", b"1"]);
    assert!(a.delete("p", now).unwrap() && !a.delete("p", now).unwrap());
    let e = a.wait(&["q", "never"], now + Duration::from_millis(10)).unwrap_err();
    assert!(e.to_string().contains("a/never") && !e.to_string().contains("a/q"), "{e}");
}

/// After a rank has left its group (`shutdown` or drop), requests to the backend's store fail, but those to the store
/// of `GroupInit::lasting_store` succeed.
#[test]
fn a_backend_cannot_use_the_store_after_its_rank_has_left() {
    let now = Instant::now();
    let group = || {
        let stores = Arc::new(Mutex::new(None));
        let given = stores.clone();
        let make = move |init: &GroupInit| {
            *given.lock().unwrap() = Some((init.store.clone(), init.lasting_store()));
            puppet(drop)
        };
        let built = builder(make).build();
        let (store, lasting) = stores.lock().unwrap().take().unwrap();
        (built, store, lasting)
    };
    let has_ended = |store: &dyn Store| store.set("k", b"", now).is_err_and(|e| *e.kind() == ErrorKind::Shutdown);
    let (pg, store, lasting) = group();
    let pg = pg.unwrap();
    store.set("k", b"here", now).unwrap();
    assert_eq!(lasting.get("k", now).unwrap(), b"here");
    pg.shutdown().unwrap();
    assert!(has_ended(&*store) && lasting.set("k", b"", now).is_ok());
    let (pg, store, _) = group();
    drop(pg);
    assert!(has_ended(&*store));
}
