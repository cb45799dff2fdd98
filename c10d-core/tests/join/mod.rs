//! Tests that ranks find each other, or that their errors name the missing ranks.

mod again;
mod contradictions;
mod missing;
mod ranks_of_threads;
mod sub_groups;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use c10d_core::{Builder, Error, ErrorKind, HashStore, ProcessGroup, Result, Store};

use crate::common::{self, puppet, within};

/// The time limit of a step of a test, which only a hang reaches.
const HANG: Duration = Duration::from_secs(20);
/// A timeout that a group does not reach.
const LONG: Duration = Duration::from_secs(15);
/// A timeout that a group with missing ranks reaches soon.
const SHORT: Duration = Duration::from_millis(400);

fn builder() -> Builder {
    common::builder(|_| puppet(|job| job.complete(Ok(())))).timeout(LONG)
}

fn soon() -> Instant {
    Instant::now() + LONG
}

/// Joins one group as each of these ranks at once. Each item of `ranks` is a rank and its world size.
fn build(store: &Arc<HashStore>, timeout: Duration, ranks: &[(u32, u32)]) -> Vec<Result<ProcessGroup>> {
    std::thread::scope(|s| {
        let b = |r, n| builder().timeout(timeout).rank(r).size(n).store(store.clone());
        let threads: Vec<_> = ranks.iter().map(|&(r, n)| s.spawn(move || b(r, n).build())).collect();
        within(HANG, || threads.into_iter().map(|t| t.join().unwrap()).collect())
    })
}

/// Waits until `holds` returns `true`. Fails the test after [`HANG`].
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + HANG;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}

/// Returns the field of a mismatch.
fn field(e: &Error) -> &'static str {
    match e.kind() {
        ErrorKind::Mismatch { field, .. } => field,
        other => panic!("{other:?}: {e}"),
    }
}

/// A store that deletes nothing and rejects keys of more than 1024 bytes. A `check` fails if its deadline is less than
/// `answers_in` away, like that of a slow store.
struct Keeps {
    inner: Arc<HashStore>,
    answers_in: Duration,
    /// The number of checks that did not fail.
    checks: AtomicUsize,
}

fn keeps(inner: Arc<HashStore>, answers_in: Duration) -> Arc<Keeps> {
    Arc::new(Keeps { inner, answers_in, checks: AtomicUsize::new(0) })
}

impl Store for Keeps {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        if key.len() > 1024 {
            return Err(Error::new(ErrorKind::Store, format!("a key of {} bytes", key.len())));
        }
        self.inner.set(key, value, deadline)
    }
    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.inner.get(key, deadline)
    }
    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.inner.wait(keys, deadline)
    }
    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.inner.add(key, delta, deadline)
    }
    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.inner.compare_set(key, expected, desired, deadline)
    }
    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.inner.append(key, value, deadline)
    }
    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        if deadline.saturating_duration_since(Instant::now()) < self.answers_in {
            return Err(Error::new(ErrorKind::Store, "timed out: the store does not answer"));
        }
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.inner.check(keys, deadline)
    }
    fn delete(&self, _: &str, _: Instant) -> Result<bool> {
        Ok(false)
    }
    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.inner.num_keys(deadline)
    }
    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.inner.multi_get(keys, deadline)
    }
    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        self.inner.multi_set(pairs, deadline)
    }
}
