//! The store that a backend gets while its group is made. A wait for a key ends early if another rank reports that it
//! cannot make the group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reports;
use crate::Result;
use crate::store::Store;

/// How long one wait lasts before this rank looks at the reports again, which read the store at most every 200 ms.
const SLICE: Duration = Duration::from_millis(250);

pub(crate) struct InterruptibleStore {
    inner: Arc<dyn Store>,
    reports: Arc<Reports>,
}

impl InterruptibleStore {
    pub(crate) fn new(inner: Arc<dyn Store>, reports: Arc<Reports>) -> InterruptibleStore {
        InterruptibleStore { inner, reports }
    }

    /// Calls `wait` again and again, each time with a deadline at most `SLICE` from now, until `wait` succeeds, fails
    /// before that deadline, or `deadline` has passed. Between the calls this function looks at the reports, and
    /// returns the error if another rank has reported one. `wait` must return an error at its deadline.
    fn in_slices<T>(&self, deadline: Instant, wait: impl Fn(Instant) -> Result<T>) -> Result<T> {
        loop {
            let slice = deadline.min(Instant::now() + SLICE);
            match wait(slice) {
                Err(_) if slice < deadline && Instant::now() >= slice => {}
                result => return result,
            }
            if let Some(error) = self.reports.failure() {
                return Err(error);
            }
        }
    }
}

impl Store for InterruptibleStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.inner.set(key, value, deadline)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.in_slices(deadline, |slice| self.inner.get(key, slice))
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.in_slices(deadline, |slice| self.inner.wait(keys, slice))
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
        self.inner.check(keys, deadline)
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        self.inner.delete(key, deadline)
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.inner.num_keys(deadline)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.in_slices(deadline, |slice| self.inner.multi_get(keys, slice))
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        self.inner.multi_set(pairs, deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind, HashStore};

    /// Returns the interruptible store of rank 0, the store in it, and the reports of rank 1, in a group of two.
    fn pair() -> (InterruptibleStore, Arc<dyn Store>, Reports) {
        let [told, inner]: [Arc<dyn Store>; 2] = [Arc::new(HashStore::new()), Arc::new(HashStore::new())];
        let reports = Arc::new(Reports::new(told.clone(), 0, 2));
        (InterruptibleStore::new(inner.clone(), reports), inner, Reports::new(told, 1, 2))
    }

    #[test]
    fn a_wait_ends_with_the_error_that_another_rank_reports() {
        let (store, inner, peer) = pair();
        inner.set("there", b"1", Instant::now()).unwrap();
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(60);
        let out = Error::new(ErrorKind::Internal, "no").caused_by(std::io::Error::from_raw_os_error(libc::EMFILE));
        std::thread::scope(|s| {
            let waits = [
                s.spawn(|| store.wait(&["there", "absent"], deadline)),
                s.spawn(|| store.get("absent", deadline).map(drop)),
                s.spawn(|| store.multi_get(&["absent"], deadline).map(drop)),
            ];
            peer.settle(out);
            for wait in waits {
                let error = wait.join().unwrap().unwrap_err();
                assert_eq!((error.kind(), &*error.report().guilty), (&ErrorKind::Resource, &[1][..]), "{error}");
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_wait_without_reports_ends_with_its_key_or_deadline() {
        let (store, inner, _) = pair();
        std::thread::scope(|s| {
            let late = s.spawn(|| store.get("late", Instant::now() + Duration::from_secs(60)));
            std::thread::sleep(2 * SLICE);
            inner.set("late", b"here", Instant::now()).unwrap();
            assert_eq!(late.join().unwrap().unwrap(), b"here");
        });
        let error = store.wait(&["never"], Instant::now() + SLICE / 2).unwrap_err();
        assert!(*error.kind() == ErrorKind::Store && error.to_string().contains("never"), "{error}");
    }
}
