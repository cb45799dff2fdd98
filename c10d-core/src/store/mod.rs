//! The key–value store through which ranks find each other.

mod hash;
#[cfg(test)]
pub(crate) mod hooked;
mod prefix;

use std::time::{Duration, Instant};

pub use hash::HashStore;
pub use prefix::PrefixStore;

use crate::Result;

/// A key–value store that all ranks share. Its semantics are those of PyTorch's TCPStore.
///
/// Every method returns at its deadline or a little later. If the server does not answer, the error is an
/// [`ErrorKind::Store`](crate::ErrorKind::Store) that names the keys. Several threads may use a store at once.
pub trait Store: Send + Sync + 'static {
    /// Sets `key` to `value`.
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result;
    /// Waits until `key` exists, then returns its value.
    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>>;
    /// Waits until all keys exist.
    fn wait(&self, keys: &[&str], deadline: Instant) -> Result;
    /// Adds `delta` to the decimal number that is the value of `key` (0 if the key does not exist), and returns the
    /// sum. If the sum overflows, or the value is not a number, `add` returns an error.
    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64>;
    /// Sets `key` to `desired` if its value is `expected`, or if the key does not exist and `expected` is empty.
    /// Returns the value that is stored afterwards or, if the key still does not exist, `expected`.
    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>>;
    /// Appends to the value of `key` (empty if the key does not exist).
    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result;
    /// Returns whether all keys exist now.
    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool>;
    /// Deletes `key`. Returns whether it existed.
    fn delete(&self, key: &str, deadline: Instant) -> Result<bool>;
    /// Returns the number of keys of the whole store.
    fn num_keys(&self, deadline: Instant) -> Result<u64>;
    /// Waits until all keys exist, then returns their values in order.
    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>>;
    /// Sets each key to its value.
    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result;
}

/// The longest wait, about thirty years. An `Instant` cannot express every time.
pub(crate) const FOREVER: Duration = Duration::from_secs(1 << 30);

/// Returns the time `timeout` from now, but at most about thirty years from now.
pub fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FOREVER)
}

/// Returns the sum that [`Store::add`] stores for a key with this value, or a text that says why there is no sum.
pub fn sum(value: Option<&[u8]>, delta: i64) -> Result<i64, &'static str> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<i64>().ok();
    let old = value.map_or(Some(0), number).ok_or("its value is not a decimal number")?;
    old.checked_add(delta).ok_or("the sum does not fit into 64 bits")
}
