//! A store inside one process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, MutexGuard};

use super::{Store, sum};
use crate::process::Process;
use crate::{Error, ErrorKind, Result};

/// A store for ranks that are threads of the process that made it. Clones share their contents.
#[derive(Clone)]
pub struct HashStore(Arc<Shared>, Process);

impl Default for HashStore {
    fn default() -> HashStore {
        HashStore(Arc::default(), Process::current())
    }
}

#[derive(Default)]
struct Shared {
    map: Mutex<HashMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl HashStore {
    /// Makes an empty store.
    pub fn new() -> HashStore {
        HashStore::default()
    }

    /// Returns the map. In a forked child, returns an error, since no other rank sees the child's copy.
    fn map(&self) -> Result<MutexGuard<'_, HashMap<String, Vec<u8>>>> {
        self.1.check("the store")?;
        Ok(self.0.map.lock())
    }

    fn change<R>(&self, f: impl FnOnce(&mut HashMap<String, Vec<u8>>) -> R) -> Result<R> {
        let out = f(&mut *self.map()?);
        self.0.changed.notify_all();
        Ok(out)
    }

    fn wait_then<R>(
        &self,
        keys: &[&str],
        deadline: Instant,
        f: impl FnOnce(&HashMap<String, Vec<u8>>) -> R,
    ) -> Result<R> {
        let mut map = self.map()?;
        while !keys.iter().all(|k| map.contains_key(*k)) {
            if self.0.changed.wait_until(&mut map, deadline).timed_out() {
                let missing: Vec<_> = keys.iter().filter(|k| !map.contains_key(**k)).copied().collect();
                if missing.is_empty() {
                    break;
                }
                return Err(Error::new(
                    ErrorKind::Store,
                    format!("timed out waiting for keys that no rank has set: {}", missing.join(", ")),
                ));
            }
        }
        Ok(f(&map))
    }
}

impl Store for HashStore {
    fn set(&self, key: &str, value: &[u8], _: Instant) -> Result {
        self.change(|map| map.insert(key.to_owned(), value.to_vec())).map(drop)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.wait_then(&[key], deadline, |map| map.get(key).cloned().unwrap_or_default())
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.wait_then(keys, deadline, |_| ())
    }

    fn add(&self, key: &str, delta: i64, _: Instant) -> Result<i64> {
        self.change(|map| {
            let sum = sum(map.get(key).map(Vec::as_slice), delta).map_err(|why| bad(key, why))?;
            map.insert(key.to_owned(), sum.to_string().into_bytes());
            Ok(sum)
        })?
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], _: Instant) -> Result<Vec<u8>> {
        self.change(|map| match map.get_mut(key) {
            Some(value) => {
                if value == expected {
                    *value = desired.to_vec();
                }
                value.clone()
            }
            None if expected.is_empty() => map.entry(key.to_owned()).insert_entry(desired.to_vec()).get().clone(),
            None => expected.to_vec(),
        })
    }

    fn append(&self, key: &str, value: &[u8], _: Instant) -> Result {
        self.change(|map| map.entry(key.to_owned()).or_default().extend_from_slice(value))
    }

    fn check(&self, keys: &[&str], _: Instant) -> Result<bool> {
        let map = self.map()?;
        Ok(keys.iter().all(|k| map.contains_key(*k)))
    }

    fn delete(&self, key: &str, _: Instant) -> Result<bool> {
        self.change(|map| map.remove(key).is_some())
    }

    fn num_keys(&self, _: Instant) -> Result<u64> {
        Ok(self.map()?.len() as u64)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.wait_then(keys, deadline, |map| keys.iter().map(|k| map.get(*k).cloned().unwrap_or_default()).collect())
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], _: Instant) -> Result {
        self.change(|map| {
            for (key, value) in pairs {
                map.insert((*key).to_owned(), value.to_vec());
            }
        })
    }
}

fn bad(key: &str, why: &str) -> Error {
    Error::new(ErrorKind::Store, format!("cannot add to key {key:?}: {why}"))
}
