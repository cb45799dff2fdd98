//! A store that is a part of another store.

use std::sync::Arc;
use std::time::Instant;

use super::Store;
use crate::Result;

/// A view of another store: the view's key `key` is `prefix/key` in the other store. Prefixes nest as in PyTorch's
/// PrefixStore.
#[derive(Clone)]
pub struct PrefixStore {
    prefix: String,
    inner: Arc<dyn Store>,
}

impl PrefixStore {
    /// Makes a view of `inner` whose keys begin with `prefix/`.
    pub fn new(prefix: impl Into<String>, inner: Arc<dyn Store>) -> PrefixStore {
        PrefixStore { prefix: prefix.into(), inner }
    }

    fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.prefix)
    }

    fn keys<R>(&self, keys: &[&str], f: impl FnOnce(&[&str]) -> R) -> R {
        let owned: Vec<String> = keys.iter().map(|k| self.key(k)).collect();
        f(&owned.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl Store for PrefixStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.inner.set(&self.key(key), value, deadline)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.inner.get(&self.key(key), deadline)
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.keys(keys, |keys| self.inner.wait(keys, deadline))
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.inner.add(&self.key(key), delta, deadline)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.inner.compare_set(&self.key(key), expected, desired, deadline)
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.inner.append(&self.key(key), value, deadline)
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        self.keys(keys, |keys| self.inner.check(keys, deadline))
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        self.inner.delete(&self.key(key), deadline)
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.inner.num_keys(deadline)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.keys(keys, |keys| self.inner.multi_get(keys, deadline))
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        let owned: Vec<(String, &[u8])> = pairs.iter().map(|(k, v)| (self.key(k), *v)).collect();
        let borrowed: Vec<(&str, &[u8])> = owned.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        self.inner.multi_set(&borrowed, deadline)
    }
}
