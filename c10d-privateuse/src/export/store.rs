//! The host's store, as an implementation of core's trait.
#![allow(unsafe_code)]

use std::time::Instant;

use c10d_core::{Error, ErrorKind, Result, Store};

use crate::abi::{Host, Why, codes};

/// The host's table: a copy of the fields that both sides have, and the address of the original.
#[derive(Clone, Copy)]
pub(super) struct HostTable {
    table: Host,
    host: *const Host,
}

// SAFETY: the host does not change its table, and its functions may be called from any thread.
unsafe impl Sync for HostTable {}
// SAFETY: the same as for `Sync`.
unsafe impl Send for HostTable {}

impl HostTable {
    /// # Safety
    /// `host` is the table that the host passed to the entry.
    pub(super) unsafe fn new(host: *const Host) -> HostTable {
        let mut table = crate::abi::empty::<Host>();
        // SAFETY: the caller guarantees that `host` is the host's table. The table's first field is its size in bytes.
        // The copy is not longer than this size or the struct `Host`.
        unsafe {
            let size = (host.cast::<u32>().read() as usize).min(size_of::<Host>());
            std::ptr::copy_nonoverlapping(host.cast::<u8>(), (&raw mut table).cast::<u8>(), size);
        }
        HostTable { table, host }
    }

    pub(super) fn host(&self) -> *const Host {
        self.host
    }

    pub(super) fn error(&self, text: &str) {
        if let Some(log) = self.table.log {
            // SAFETY: the host's function gets the host's table, and the text with its length.
            unsafe { log(self.host, 1, text.as_ptr().cast(), text.len() as u64) };
        }
    }
}

/// The store of one group.
pub(super) struct HostStore {
    host_table: HostTable,
    number: u64,
}

/// The buffer size of the first attempt to fetch a value. A longer value is fetched again into a larger buffer.
const ROOM: usize = 4096;

/// The maximum number of attempts to fetch a value that has grown beyond the buffer at each attempt.
const TRIES: usize = 8;

fn left(deadline: Instant) -> u64 {
    u64::try_from(deadline.saturating_duration_since(Instant::now()).as_nanos()).unwrap_or(u64::MAX)
}

fn result((status, why): (i32, String)) -> Result {
    match codes::kind(status) {
        None if status == codes::OK => Ok(()),
        Some(ErrorKind::InvalidArgument) => Err(Error::invalid(why)),
        _ => Err(Error::new(ErrorKind::Store, why)),
    }
}

/// Returns the function, or an error if the host is too old to have it.
fn have<F>(f: Option<F>, name: &str) -> Result<F> {
    f.ok_or_else(|| Error::unsupported(format!("this host has no {name}; the plugin needs a host with ABI 1.1")))
}

impl HostStore {
    pub(super) fn new(host_table: HostTable, number: u64) -> HostStore {
        HostStore { host_table, number }
    }

    /// Calls a function that writes a value. Returns the value, or its length if it is longer than `room`.
    fn value(
        &self,
        room: usize,
        call: impl FnOnce(&mut [u8], &mut u64, *mut Why) -> i32,
    ) -> Result<Result<Vec<u8>, usize>> {
        let mut value = vec![0u8; room];
        let mut len = 0;
        let (status, why) = Why::ask(|why| call(&mut value, &mut len, why));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if status == codes::RESOURCE && len > room {
            return Ok(Err(len));
        }
        result((status, why))?;
        value.truncate(len);
        Ok(Ok(value))
    }
}

impl Store for HostStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        let f = have(self.host_table.table.store_set, "store_set")?;
        let (k, n, v) = (key.as_ptr().cast(), key.len() as u64, value.as_ptr().cast());
        // SAFETY: here and below, the host's functions get the host's table, and pointers with their lengths.
        result(Why::ask(|why| unsafe {
            f(self.host_table.host, self.number, k, n, v, value.len() as u64, left(deadline), why)
        }))
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        let f = have(self.host_table.table.store_get, "store_get")?;
        let mut room = ROOM;
        for _ in 0..TRIES {
            let got = self.value(room, |value, len, why| {
                let (k, n, to) = (key.as_ptr().cast(), key.len() as u64, value.as_mut_ptr().cast());
                // SAFETY: see `set`.
                unsafe { f(self.host_table.host, self.number, k, n, to, value.len() as u64, len, left(deadline), why) }
            })?;
            match got {
                Ok(value) => return Ok(value),
                Err(larger) => room = larger,
            }
        }
        Err(Error::new(ErrorKind::Store, format!("the value of {key:?} grows faster than it is read")))
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        let f = have(self.host_table.table.store_wait, "store_wait")?;
        keys.iter().try_for_each(|key| {
            let (k, n) = (key.as_ptr().cast(), key.len() as u64);
            // SAFETY: see `set`.
            result(Why::ask(|why| unsafe { f(self.host_table.host, self.number, k, n, left(deadline), why) }))
        })
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        let f = have(self.host_table.table.store_add, "store_add")?;
        let (k, n) = (key.as_ptr().cast(), key.len() as u64);
        let mut sum = 0;
        // SAFETY: see `set`.
        result(Why::ask(|why| unsafe {
            f(self.host_table.host, self.number, k, n, delta, &mut sum, left(deadline), why)
        }))?;
        Ok(sum)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        let f = have(self.host_table.table.store_compare_set, "store_compare_set")?;
        let got = self.value(ROOM.max(expected.len()).max(desired.len()), |value, len, why| {
            let (k, n, to) = (key.as_ptr().cast(), key.len() as u64, value.as_mut_ptr().cast());
            let (e, d) = (expected.as_ptr().cast(), desired.as_ptr().cast());
            let (el, dl) = (expected.len() as u64, desired.len() as u64);
            // SAFETY: see `set`.
            unsafe {
                f(
                    self.host_table.host,
                    self.number,
                    k,
                    n,
                    e,
                    el,
                    d,
                    dl,
                    to,
                    value.len() as u64,
                    len,
                    left(deadline),
                    why,
                )
            }
        })?;
        got.or_else(|_| self.get(key, deadline))
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        let f = have(self.host_table.table.store_append, "store_append")?;
        let (k, n, v) = (key.as_ptr().cast(), key.len() as u64, value.as_ptr().cast());
        // SAFETY: see `set`.
        result(Why::ask(|why| unsafe {
            f(self.host_table.host, self.number, k, n, v, value.len() as u64, left(deadline), why)
        }))
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        let f = have(self.host_table.table.store_check, "store_check")?;
        for key in keys {
            let (k, n) = (key.as_ptr().cast(), key.len() as u64);
            let mut exists = 0;
            // SAFETY: see `set`.
            result(Why::ask(|why| unsafe {
                f(self.host_table.host, self.number, k, n, &mut exists, left(deadline), why)
            }))?;
            if exists == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        let f = have(self.host_table.table.store_delete, "store_delete")?;
        let (k, n) = (key.as_ptr().cast(), key.len() as u64);
        let mut existed = 0;
        // SAFETY: see `set`.
        result(Why::ask(|why| unsafe {
            f(self.host_table.host, self.number, k, n, &mut existed, left(deadline), why)
        }))?;
        Ok(existed != 0)
    }

    fn num_keys(&self, _: Instant) -> Result<u64> {
        Err(Error::unsupported("a plugin sees only its group's part of the store, so it cannot count all keys"))
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        keys.iter().map(|key| self.get(key, deadline)).collect()
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        pairs.iter().try_for_each(|(key, value)| self.set(key, value, deadline))
    }
}
