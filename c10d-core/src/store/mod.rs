//! The key-value store through which ranks find each other.

mod hash;
mod prefix;

use std::time::{Duration, Instant};

pub use hash::HashStore;
pub use prefix::PrefixStore;

use crate::Result;

/// A store shared by all ranks: bytes under names. Semantics are those of PyTorch's TCPStore.
///
/// Every verb takes a deadline and returns by it, at the latest a little after, whatever the server does; past it the
/// error is [`ErrorKind::Store`](crate::ErrorKind::Store) and names the keys. Safe to use from several threads at once.
pub trait Store: Send + Sync + 'static {
    /// Sets `key` to `value`.
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result;
    /// Waits until `key` exists, then gives its value.
    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>>;
    /// Waits until all keys exist.
    fn wait(&self, keys: &[&str], deadline: Instant) -> Result;
    /// Adds to the decimal number under `key` (absent = 0) and gives the sum. Overflow and text that is no number are
    /// errors.
    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64>;
    /// Swaps `key` to `desired` if it holds `expected` (absent and empty `expected`: sets it). Gives what is stored
    /// afterwards; for an absent key and a non-empty `expected`, gives `expected` and stores nothing.
    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>>;
    /// Appends to the value of `key` (absent = empty).
    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result;
    /// Whether all keys exist now.
    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool>;
    /// Deletes `key`; whether it existed.
    fn delete(&self, key: &str, deadline: Instant) -> Result<bool>;
    /// How many keys the whole store has.
    fn num_keys(&self, deadline: Instant) -> Result<u64>;
    /// Waits until all keys exist, then gives their values in order.
    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>>;
    /// Sets all pairs.
    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result;
}

/// No wait is longer: some thirty years. The clock cannot express any time.
pub(crate) const FOREVER: Duration = Duration::from_secs(1 << 30);

/// `now + timeout`, which is cut to some thirty years.
pub fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FOREVER)
}

/// What [`Store::add`] makes of the value under a key; or what is wrong with that.
pub fn sum(value: Option<&[u8]>, delta: i64) -> Result<i64, &'static str> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<i64>().ok();
    let old = value.map_or(Some(0), number).ok_or("its value is not a decimal number")?;
    old.checked_add(delta).ok_or("the sum does not fit into 64 bits")
}
