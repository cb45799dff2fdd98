//! Tests of a rank that cannot make its part of the group. The errors of the other ranks name this rank at once,
//! whatever these ranks wait for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{Builder, Error, ErrorKind, HashStore, Phase, Store};

use super::mock;

/// Makes a group of two ranks, of which rank `poor` has too few resources. Returns the error of the other rank.
fn error_of_the_other(poor: u32) -> Error {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    let builder = Builder::new().providers(&[&mock::PROVIDER]).backend("cuda:mock").timeout(Duration::from_secs(120));
    let builder = builder.hint(mock::POOR, &poor.to_string()).hint("mock.slow", "yes").size(2).store(store);
    let begun = Instant::now();
    let errors = std::thread::scope(|s| {
        let rank = |rank: u32| {
            s.spawn({
                let builder = builder.clone();
                move || builder.rank(rank).build().err()
            })
        };
        [rank(0), rank(1)].map(|rank| rank.join().unwrap().unwrap())
    });
    assert!(begun.elapsed() < Duration::from_secs(60), "{errors:?}");
    let [first, second] = errors;
    if poor == 0 { second } else { first }
}

#[test]
fn the_rank_is_named_while_the_ids_are_awaited() {
    let error = error_of_the_other(0);
    assert_eq!((error.kind(), &*error.report().guilty), (&ErrorKind::Resource, &[0][..]), "{error}");
    assert!(error.to_string().contains("limit 100"), "{error}");
}

#[test]
fn the_rank_is_named_while_the_library_connects() {
    let error = error_of_the_other(1);
    assert_eq!((error.kind(), &*error.report().guilty), (&ErrorKind::Resource, &[1][..]), "{error}");
    assert!(error.to_string().contains("limit 100"), "{error}");
    assert_eq!(error.report().phase, Some(Phase::Connect), "{error}");
}
