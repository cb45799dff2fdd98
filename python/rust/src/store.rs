//! A store of PyTorch, which is called through one C function.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use c10d::{Error, ErrorKind, Result, Store};

use crate::abi::StoreCall;

/// The kinds of requests to a store, with their numbers in `c10d_rs.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Verb {
    /// Arguments: a key and its value.
    Set = 0,
    /// Argument: a key. Waits until the key exists and returns its value.
    Get = 1,
    /// Arguments: keys. Waits until all of them exist.
    Wait = 2,
    /// Arguments: a key, and a number that is added to its value. Returns the sum.
    Add = 3,
    /// Arguments: a key, the expected value and the new value. Returns the value after the request.
    CompareSet = 4,
    /// Arguments: a key, and a value that is appended to its value.
    Append = 5,
    /// Arguments: keys. Returns 1 if all of them exist, else 0.
    Check = 6,
    /// Argument: a key. Returns 1 if the key existed, else 0.
    Delete = 7,
    /// Returns the number of keys.
    Count = 8,
}

/// How long this rank waits for an answer after the deadline of the request. PyTorch's `FileStore` may answer late,
/// because it measures time in whole seconds.
const GRACE: Duration = Duration::from_secs(2);

/// A store of PyTorch.
///
/// Some stores of PyTorch ignore deadlines. For example, `FileStore` reads in an endless loop if a rank died while it
/// wrote to the file. So each request runs on its own thread, which is abandoned if the store does not answer in time.
pub(crate) struct Foreign(Arc<StoreCall>);

impl Foreign {
    pub(crate) fn new(store: StoreCall) -> Foreign {
        Foreign(Arc::new(store))
    }

    fn ask(&self, verb: Verb, args: &[&[u8]], number: i64, deadline: Instant) -> Result<(i64, Vec<u8>)> {
        // The time is rounded up, because an error before the deadline would not count as a timeout.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let millis = left.as_millis().min(i64::MAX as u128) as i64;
        let (store, owned): (_, Vec<Vec<u8>>) = (self.0.clone(), args.iter().map(|arg| arg.to_vec()).collect());
        let (answer, answered) = channel();
        let asked = std::thread::Builder::new().name("c10d store".into()).spawn(move || {
            let args: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
            let _ = answer.send(store.call(verb, &args, number, millis));
        });
        if let Err(e) = asked {
            return Err(Error::no_thread("cannot start a thread for a request to PyTorch's store", e));
        }
        let late = |_| Err(format!("no answer {GRACE:?} after the deadline"));
        answered.recv_timeout(left.saturating_add(GRACE)).unwrap_or_else(late).map_err(|text| {
            let keys: Vec<_> = args.iter().take(4).map(|key| String::from_utf8_lossy(key)).collect();
            let text = if text.is_empty() { "the store gave no reason".to_owned() } else { text };
            let what = match verb {
                Verb::Set | Verb::Append | Verb::CompareSet | Verb::Add => keys.first().cloned().unwrap_or_default(),
                _ => keys.join(", ").into(),
            };
            Error::new(ErrorKind::Store, format!("the request {verb:?} of {what:?} to PyTorch's store failed: {text}"))
        })
    }
}

fn bytes<'a>(keys: &[&'a str]) -> Vec<&'a [u8]> {
    keys.iter().map(|key| key.as_bytes()).collect()
}

impl Store for Foreign {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.ask(Verb::Set, &[key.as_bytes(), value], 0, deadline).map(drop)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.ask(Verb::Get, &[key.as_bytes()], 0, deadline).map(|(_, value)| value)
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.ask(Verb::Wait, &bytes(keys), 0, deadline).map(drop)
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.ask(Verb::Add, &[key.as_bytes()], delta, deadline).map(|(sum, _)| sum)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.ask(Verb::CompareSet, &[key.as_bytes(), expected, desired], 0, deadline).map(|(_, value)| value)
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.ask(Verb::Append, &[key.as_bytes(), value], 0, deadline).map(drop)
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        self.ask(Verb::Check, &bytes(keys), 0, deadline).map(|(there, _)| there != 0)
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        self.ask(Verb::Delete, &[key.as_bytes()], 0, deadline).map(|(there, _)| there != 0)
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.ask(Verb::Count, &[], 0, deadline).map(|(count, _)| count.max(0) as u64)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.wait(keys, deadline)?;
        keys.iter().map(|key| self.get(key, deadline)).collect()
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        pairs.iter().try_for_each(|(key, value)| self.set(key, value, deadline))
    }
}
