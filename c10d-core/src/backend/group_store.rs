//! The store that a backend gets for its group. A wait for a key ends early if another rank reports that it cannot make
//! the group. After this rank has left the group, none of its threads uses the store any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reports;
use crate::store::Store;
use crate::sync::{Condvar, Mutex};
use crate::{Error, ErrorKind, Result};

/// The longest time that one wait lasts before this rank looks at the reports again.
const SLICE: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 250 });

pub(crate) struct GroupStore {
    inner: Arc<dyn Store>,
    reports: Arc<Reports>,
    uses: Mutex<Uses>,
    fewer_writes: Condvar,
}

#[derive(Default)]
struct Uses {
    /// The number of requests in flight that change the store.
    writes: usize,
    /// Whether this rank has left the group.
    left: bool,
}

/// A request in flight that changes the store.
struct Write<'a>(&'a GroupStore);

impl Drop for Write<'_> {
    fn drop(&mut self) {
        self.0.uses.lock().writes -= 1;
        self.0.fewer_writes.notify_all();
    }
}

impl GroupStore {
    pub(crate) fn new(inner: Arc<dyn Store>, reports: Arc<Reports>) -> GroupStore {
        GroupStore { inner, reports, uses: Mutex::default(), fewer_writes: Condvar::new() }
    }

    /// Makes all later requests fail, and waits until no request that changes the store is in flight, or until `until`.
    ///
    /// Without the wait, the program could end while a thread of the group writes to a file store. The file would end
    /// with an incomplete record, and PyTorch's `FileStore` would hang on all other ranks.
    pub(crate) fn leave(&self, until: Instant) {
        let mut uses = self.uses.lock();
        uses.left = true;
        while uses.writes > 0 && !self.fewer_writes.wait_until(&mut uses, until).timed_out() {}
    }

    fn check_not_left(uses: &Uses) -> Result {
        match uses.left {
            true => {
                let what = "this rank has left the group, so it can no longer use the group's store";
                Err(Error::new(ErrorKind::Shutdown, what))
            }
            false => Ok(()),
        }
    }

    fn write<T>(&self, write: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut uses = self.uses.lock();
        GroupStore::check_not_left(&uses)?;
        uses.writes += 1;
        drop(uses);
        let _in_flight = Write(self);
        write()
    }

    fn read<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        GroupStore::check_not_left(&self.uses.lock())?;
        read()
    }

    /// Calls `wait` again and again, each time with a deadline at most `SLICE` from now. The calls end when `wait`
    /// succeeds, when `wait` fails before its deadline, or when `deadline` has passed. Between the calls this function
    /// looks at the reports, and returns the error if another rank has reported one. `wait` must return an error at its
    /// deadline.
    fn in_slices<T>(&self, deadline: Instant, wait: impl Fn(Instant) -> Result<T>) -> Result<T> {
        loop {
            let slice = deadline.min(Instant::now() + SLICE);
            match self.read(|| wait(slice)) {
                Err(_) if slice < deadline && Instant::now() >= slice => {}
                result => return result,
            }
            if let Some(error) = self.reports.failure() {
                return Err(error);
            }
        }
    }
}

impl Store for GroupStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.write(|| self.inner.set(key, value, deadline))
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.in_slices(deadline, |slice| self.inner.get(key, slice))
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.in_slices(deadline, |slice| self.inner.wait(keys, slice))
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.write(|| self.inner.add(key, delta, deadline))
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.write(|| self.inner.compare_set(key, expected, desired, deadline))
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.write(|| self.inner.append(key, value, deadline))
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        self.read(|| self.inner.check(keys, deadline))
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        self.write(|| self.inner.delete(key, deadline))
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.read(|| self.inner.num_keys(deadline))
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.in_slices(deadline, |slice| self.inner.multi_get(keys, slice))
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        self.write(|| self.inner.multi_set(pairs, deadline))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::HashStore;
    use crate::store::hooked::Hooked;

    fn hooked(hook: impl Fn(&str) + Send + Sync + 'static) -> Arc<dyn Store> {
        Arc::new(Hooked { inner: HashStore::new(), hook: Box::new(hook) })
    }

    /// Returns the group's store of rank 0, the store that it wraps, and the reports of rank 1, in a group of two.
    fn pair() -> (GroupStore, Arc<dyn Store>, Reports) {
        let [told, inner]: [Arc<dyn Store>; 2] = [Arc::new(HashStore::new()), Arc::new(HashStore::new())];
        let reports = Arc::new(Reports::new(told.clone(), 0, 2));
        (GroupStore::new(inner.clone(), reports), inner, Reports::new(told, 1, 2))
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
        let (tell, told) = std::sync::mpsc::channel();
        let inner = hooked(move |method| {
            if method == "get" {
                let _ = tell.send(());
            }
        });
        let store = GroupStore { inner: inner.clone(), ..pair().0 };
        std::thread::scope(|s| {
            let late = s.spawn(|| store.get("late", Instant::now() + Duration::from_secs(60)));
            (0..3).for_each(|_| told.recv_timeout(Duration::from_secs(30)).expect("another request"));
            inner.set("late", b"here", Instant::now()).unwrap();
            assert_eq!(late.join().unwrap().unwrap(), b"here");
        });
        let error = store.wait(&["never"], Instant::now() + SLICE / 2).unwrap_err();
        assert!(*error.kind() == ErrorKind::Store && error.to_string().contains("never"), "{error}");
    }

    /// A thread adds to the store while the rank leaves. The rank waits for this request. All later requests fail.
    #[test]
    fn a_rank_that_has_left_does_not_use_the_store() {
        let barriers = Arc::new([Barrier::new(2), Barrier::new(2)]);
        let [begun, end] = &*barriers.clone();
        let slow = hooked(move |method| {
            if method == "add" {
                for barrier in &*barriers {
                    barrier.wait();
                }
            }
        });
        let store = GroupStore { inner: slow, ..pair().0 };
        let (minute, ended) = (Instant::now() + Duration::from_secs(60), AtomicBool::new(false));
        std::thread::scope(|s| {
            let waits = s.spawn(|| store.get("absent", minute).unwrap_err());
            s.spawn(|| {
                store.add("n", 1, minute).unwrap();
                ended.store(true, Ordering::Release);
            });
            begun.wait();
            store.leave(Instant::now());
            assert!(!ended.load(Ordering::Acquire), "the first `leave` had no time to wait");
            s.spawn(|| end.wait());
            store.leave(minute);
            assert_eq!(store.uses.lock().writes, 0);
            assert_eq!(*waits.join().unwrap().kind(), ErrorKind::Shutdown);
        });
        let keys: [&str; 0] = [];
        let refused = [
            store.set("k", b"", minute).err(),
            store.get("n", minute).err(),
            store.wait(&keys, minute).err(),
            store.add("n", 1, minute).err(),
            store.compare_set("k", b"", b"x", minute).err(),
            store.append("k", b"x", minute).err(),
            store.check(&keys, minute).err(),
            store.delete("n", minute).err(),
            store.num_keys(minute).err(),
            store.multi_get(&keys, minute).err(),
            store.multi_set(&[("k", b"")], minute).err(),
        ];
        for error in refused {
            assert_eq!(*error.unwrap().kind(), ErrorKind::Shutdown);
        }
    }
}
