//! Tests all operations of `HashStore` and `PrefixStore`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{ErrorKind, HashStore, PrefixStore, Store};

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
