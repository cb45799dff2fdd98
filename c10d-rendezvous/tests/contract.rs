//! The contract of every store.

use crate::common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{ErrorKind, HashStore, PrefixStore, Store};
use c10d_rendezvous::FileStore;
use common::{client, server, soon};

fn in_a_moment() -> Instant {
    Instant::now() + Duration::from_millis(30)
}

fn keeps_the_contract(store: &Arc<dyn Store>) {
    let t = soon();
    assert_eq!(store.num_keys(t).unwrap(), 0);
    store.set("k", b"\0v\xff", t).unwrap();
    assert_eq!(store.get("k", t).unwrap(), b"\0v\xff");
    store.set("empty", b"", t).unwrap();
    assert!(store.check(&["k", "empty"], t).unwrap());
    assert!(!store.check(&["k", "none"], t).unwrap());
    assert!(store.check(&[], t).unwrap());
    assert_eq!(store.add("n", 5, t).unwrap(), 5);
    assert_eq!(store.add("n", -7, t).unwrap(), -2);
    assert_eq!(store.get("n", t).unwrap(), b"-2");
    assert_eq!(store.compare_set("c", b"no", b"1", t).unwrap(), b"no");
    assert!(!store.check(&["c"], t).unwrap());
    assert_eq!(store.compare_set("c", b"", b"1", t).unwrap(), b"1");
    assert_eq!(store.compare_set("c", b"1", b"2", t).unwrap(), b"2");
    assert_eq!(store.compare_set("c", b"1", b"3", t).unwrap(), b"2");
    store.append("a", b"one", t).unwrap();
    store.append("a", b"two", t).unwrap();
    store.multi_set(&[("m1", b"1"), ("m2", b"")], t).unwrap();
    assert_eq!(store.multi_get(&["m1", "a", "m2"], t).unwrap(), [&b"1"[..], b"onetwo", b""]);
    assert_eq!(store.num_keys(t).unwrap(), 7);
    assert!(store.delete("a", t).unwrap());
    assert!(!store.delete("a", t).unwrap());

    for error in [
        store.add("k", 1, t).unwrap_err(),
        store.get("none", in_a_moment()).unwrap_err(),
        store.wait(&["k", "none"], in_a_moment()).unwrap_err(),
        store.multi_get(&["k", "none"], in_a_moment()).unwrap_err(),
    ] {
        assert_eq!(*error.kind(), ErrorKind::Store, "{error}");
    }
    let error = store.wait(&["none", "m1", "neither"], in_a_moment()).unwrap_err().to_string();
    assert!(error.contains("none, neither") && error.contains("timed out"), "{error}");
    assert!(!error.contains("m1"), "only what is missing: {error}");
    store.set("n", i64::MAX.to_string().as_bytes(), t).unwrap();
    assert!(store.add("n", 1, t).is_err());
    assert_eq!(store.get("n", t).unwrap(), i64::MAX.to_string().as_bytes());

    // Eight threads wait for keys while four threads add to one key.
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..8)
            .map(|i| scope.spawn(move || store.multi_get(&[&format!("late{i}"), "late"], soon()).unwrap()))
            .collect();
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| assert!(store.add("count", 1, soon()).unwrap() > 0)));
        }
        for i in 0..8 {
            store.set(&format!("late{i}"), i.to_string().as_bytes(), t).unwrap();
        }
        store.set("late", b"!", t).unwrap();
        for (i, waiter) in waiters.into_iter().enumerate() {
            assert_eq!(waiter.join().unwrap(), [i.to_string().as_bytes(), b"!"]);
        }
    });
    assert_eq!(store.get("count", t).unwrap(), b"100");
}

#[test]
fn stores_keep_the_contract() {
    keeps_the_contract(&(Arc::new(HashStore::new()) as Arc<dyn Store>));
    let server = server();
    keeps_the_contract(&(Arc::new(client(server.local_addr())) as Arc<dyn Store>));
    let dir = std::env::temp_dir().join(format!("c10d-contract-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    keeps_the_contract(&(Arc::new(FileStore::open(dir.join("store")).unwrap()) as Arc<dyn Store>));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn prefixes_keep_users_apart() {
    let server = server();
    let tcp: Arc<dyn Store> = Arc::new(client(server.local_addr()));
    let inner = PrefixStore::new("x/", tcp.clone());
    let outer = PrefixStore::new("default_pg", Arc::new(inner));
    outer.set("k", b"v", soon()).unwrap();
    assert_eq!(tcp.get("x//default_pg/k", soon()).unwrap(), b"v");
}
