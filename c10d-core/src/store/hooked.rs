//! A store for tests, which calls a function before each request.

use std::time::Instant;

use super::{HashStore, Store};
use crate::Result;

/// A store that calls `hook` with the name of the method before each request.
pub(crate) struct Hooked {
    pub(crate) inner: HashStore,
    pub(crate) hook: Box<dyn Fn(&str) + Send + Sync>,
}

impl Hooked {
    fn asked(&self, method: &str) -> &HashStore {
        (self.hook)(method);
        &self.inner
    }
}

impl Store for Hooked {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.asked("set").set(key, value, deadline)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.asked("get").get(key, deadline)
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.asked("wait").wait(keys, deadline)
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.asked("add").add(key, delta, deadline)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.asked("compare_set").compare_set(key, expected, desired, deadline)
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.asked("append").append(key, value, deadline)
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        self.asked("check").check(keys, deadline)
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        self.asked("delete").delete(key, deadline)
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.asked("num_keys").num_keys(deadline)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.asked("multi_get").multi_get(keys, deadline)
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        self.asked("multi_set").multi_set(pairs, deadline)
    }
}
