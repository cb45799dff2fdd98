//! The host's functions, which plugins call.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use c10d_core::panics::{caught, contain};
use c10d_core::store::deadline_after;
use c10d_core::{Error, ErrorKind, Result, Store};

use super::plugin::Hosted;
use super::stores;
use crate::abi::{self, Host, Why, codes};

impl Hosted {
    /// Makes the host's data about the plugin with this name and file, with a table of the functions of this module.
    pub(crate) fn new(name: &str, path: &Path, patience: Duration) -> &'static Hosted {
        Hosted::leak(table(), name, path, patience)
    }
}

fn table() -> Host {
    Host {
        struct_size: abi::size::<Host>(),
        abi_minor: u32::from(abi::MINOR),
        log: Some(log),
        store_set: Some(store_set),
        store_get: Some(store_get),
        store_wait: Some(store_wait),
        store_add: Some(store_add),
        store_compare_set: Some(store_compare_set),
        store_append: Some(store_append),
        store_check: Some(store_check),
        store_delete: Some(store_delete),
        now: Some(now),
    }
}

unsafe extern "C" fn log(host: *const Host, level: u32, text: *const c_char, len: u64) {
    contain("a tracing subscriber", || {
        let plugin = Hosted::of(host).map_or("unknown", |h| h.name);
        // SAFETY: by the ABI, the text has `len` bytes.
        let text = unsafe { abi::text(text, len) };
        match level {
            1 => tracing::error!(target: "c10d::plugin", plugin, "{text}"),
            2 => tracing::warn!(target: "c10d::plugin", plugin, "{text}"),
            3 => tracing::info!(target: "c10d::plugin", plugin, "{text}"),
            _ => tracing::debug!(target: "c10d::plugin", plugin, "{text}"),
        }
    });
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

unsafe extern "C" fn now(_: *const Host) -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Runs a method of the store with this number. Writes the reason of an error to `why`.
fn verb(
    store: u64,
    key: *const c_char,
    key_len: u64,
    timeout_ns: u64,
    why: *mut Why,
    verb: impl FnOnce(&dyn Store, &str, Instant) -> Result,
) -> i32 {
    let ran = caught(|| {
        let found = stores::find(store);
        let found = found.ok_or_else(|| Error::new(ErrorKind::Store, "the group has no store with this number"))?;
        if key.is_null() || key_len > 4096 {
            return Err(Error::invalid("a key must not be null, and must have at most 4096 bytes"));
        }
        // SAFETY: by the ABI, the key has `key_len` bytes.
        let key = unsafe { abi::text(key, key_len) };
        verb(&*found, &key, deadline_after(Duration::from_nanos(timeout_ns)))
    });
    let error = match ran {
        Ok(Ok(())) => return codes::OK,
        Ok(Err(e)) => e,
        Err(words) => Error::new(ErrorKind::Internal, format!("the store panicked: {words}")),
    };
    // SAFETY: by the ABI, `why` is null or valid.
    unsafe { Why::say(why, &error.to_string()) };
    codes::status(&error)
}

/// Returns a value that the plugin passed.
///
/// # Safety
/// `value` is null or points to `len` bytes.
unsafe fn bytes<'a>(value: *const c_void, len: u64) -> Result<&'a [u8]> {
    match usize::try_from(len).ok().filter(|len| isize::try_from(*len).is_ok()) {
        Some(0) => Ok(&[]),
        // SAFETY: the caller guarantees it.
        Some(len) if !value.is_null() => Ok(unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) }),
        _ => Err(Error::invalid("a value must not be null, and must have at most isize::MAX bytes")),
    }
}

/// Writes a value and its length to the plugin's memory.
///
/// # Safety
/// `len` is null or valid for writing, and `value` is null or has `capacity` bytes.
unsafe fn put(got: &[u8], value: *mut c_void, capacity: u64, len: *mut u64) -> Result {
    if len.is_null() || (value.is_null() && capacity > 0) {
        return Err(Error::invalid("there is no memory for the value or its length"));
    }
    // SAFETY: the caller guarantees it.
    unsafe { len.write(got.len() as u64) };
    if got.len() as u64 > capacity {
        let what = format!("the value has {} bytes, but the buffer has only {capacity}", got.len());
        return Err(Error::new(ErrorKind::Resource, what));
    }
    if !got.is_empty() {
        // SAFETY: the caller guarantees `capacity` bytes, and the check above ensures that they are enough.
        unsafe { std::ptr::copy_nonoverlapping(got.as_ptr(), value.cast::<u8>(), got.len()) };
    }
    Ok(())
}

unsafe extern "C" fn store_set(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    value: *const c_void,
    len: u64,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| {
        // SAFETY: by the ABI, the value has `len` bytes.
        store.set(key, unsafe { bytes(value, len) }?, deadline)
    })
}

unsafe extern "C" fn store_get(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    value: *mut c_void,
    capacity: u64,
    len: *mut u64,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| {
        let got = store.get(key, deadline)?;
        // SAFETY: by the ABI, `len` is valid and `value` has `capacity` bytes.
        unsafe { put(&got, value, capacity, len) }
    })
}

unsafe extern "C" fn store_wait(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| store.wait(&[key], deadline))
}

unsafe extern "C" fn store_add(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    delta: i64,
    sum: *mut i64,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| {
        let value = store.add(key, delta, deadline)?;
        if !sum.is_null() {
            // SAFETY: by the ABI, `sum` is valid for writing.
            unsafe { sum.write(value) };
        }
        Ok(())
    })
}

unsafe extern "C" fn store_compare_set(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    expected: *const c_void,
    expected_len: u64,
    desired: *const c_void,
    desired_len: u64,
    value: *mut c_void,
    capacity: u64,
    len: *mut u64,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| {
        // SAFETY: by the ABI, these have the given lengths.
        let (expected, desired) = unsafe { (bytes(expected, expected_len)?, bytes(desired, desired_len)?) };
        let got = store.compare_set(key, expected, desired, deadline)?;
        // SAFETY: by the ABI, `len` is valid and `value` has `capacity` bytes.
        unsafe { put(&got, value, capacity, len) }
    })
}

unsafe extern "C" fn store_append(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    value: *const c_void,
    len: u64,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| {
        // SAFETY: by the ABI, the value has `len` bytes.
        store.append(key, unsafe { bytes(value, len) }?, deadline)
    })
}

/// Writes 1 for yes or 0 for no to the plugin's memory.
///
/// # Safety
/// `answer` is null or valid for writing.
unsafe fn tell(answer: *mut u32, yes: bool) {
    if !answer.is_null() {
        // SAFETY: the caller guarantees it.
        unsafe { answer.write(u32::from(yes)) };
    }
}

unsafe extern "C" fn store_check(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    exists: *mut u32,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| {
        // SAFETY: by the ABI, `exists` is null or valid for writing.
        store.check(&[key], deadline).map(|yes| unsafe { tell(exists, yes) })
    })
}

unsafe extern "C" fn store_delete(
    _: *const Host,
    store: u64,
    key: *const c_char,
    key_len: u64,
    existed: *mut u32,
    timeout_ns: u64,
    why: *mut Why,
) -> i32 {
    verb(store, key, key_len, timeout_ns, why, |store, key, deadline| {
        // SAFETY: by the ABI, `existed` is null or valid for writing.
        store.delete(key, deadline).map(|yes| unsafe { tell(existed, yes) })
    })
}
