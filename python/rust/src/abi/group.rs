//! The functions of the interface that make, use and close groups.

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use c10d::{Error, ProcessGroup, Result, Store};

use super::structs::{Init, StoreCall, Text};
use super::{answer, guarded};
use crate::call;
use crate::error::CError;
use crate::memory::slice;
use crate::store::Foreign;

/// `c10drs_group` of the header.
pub struct Group {
    pub(super) group: ProcessGroup,
    /// The number that `c10d::device::vendor` gives the vendor of the PrivateUse1 devices; 0 if `c10drs_init` names
    /// none.
    pub(super) vendor: u8,
}

/// Copies a text. Bytes that are not UTF-8 are replaced.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
unsafe fn text(text: &Text) -> String {
    // SAFETY: the caller guarantees that `data` points to `len` bytes.
    String::from_utf8_lossy(unsafe { slice(text.data.cast::<u8>(), text.len) }).into_owned()
}

/// Makes a group. Blocks until all ranks have joined. Returns 0, or 1 and an error.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_open(init: *const Init, group: *mut *mut Group, error: *mut *mut CError) -> c_int {
    // From here on the library owns the store, even if this function fails.
    // SAFETY: the caller guarantees that `init` is valid, and does not use the store again.
    let (init, store) = unsafe { (&*init, (*init).store.as_ref().map(|store| std::ptr::read(store))) };
    // SAFETY: the caller guarantees that the texts and lists of `init` are valid.
    let made = guarded(|| unsafe { open(init, store) });
    // SAFETY: the caller guarantees that `group` is valid for writes, and `error` is null or valid for writes.
    unsafe {
        let made = made.map(|made| *group = Box::into_raw(Box::new(made)));
        answer(made, error)
    }
}

/// Builds the group of [`c10drs_open`].
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
unsafe fn open(init: &Init, store: Option<StoreCall>) -> Result<Group> {
    if init.bytes != size_of::<Init>() {
        let what = format!("c10drs_init has {} bytes, not {}: the versions differ", size_of::<Init>(), init.bytes);
        return Err(Error::invalid(what));
    }
    // SAFETY: the caller guarantees that the texts are valid.
    let [name, prefix, backends, url, private_use1] =
        [&init.name, &init.prefix, &init.backends, &init.url, &init.private_use1].map(|t| unsafe { text(t) });
    let vendor = if private_use1.is_empty() { 0 } else { c10d::device::vendor(&private_use1) };
    let timeout = Duration::from_millis(init.timeout_ms.max(1) as u64);
    let mut builder = c10d::builder().name(&name).timeout(timeout).backend(&backends);
    if url.is_empty() {
        builder = builder.rank(init.rank).size(init.size);
    } else {
        builder = builder.init(&url);
    }
    if let Some(store) = store {
        let store: Arc<dyn Store> = Arc::new(Foreign::new(store));
        builder = builder.store(match prefix.is_empty() {
            true => store,
            false => Arc::new(c10d::PrefixStore::new(prefix, store)),
        });
    }
    // SAFETY: the caller guarantees that `hints` points to `hints_len` texts.
    let hints = unsafe { slice(init.hints, init.hints_len) };
    for pair in hints.chunks_exact(2) {
        // SAFETY: the caller guarantees that the texts are valid.
        let (name, value) = unsafe { (text(&pair[0]), text(&pair[1])) };
        builder = builder.hint(&name, &value);
    }
    if init.device_kind != 0 {
        builder = builder.device(call::device(init.device_kind, init.device_index, vendor)?);
    }
    Ok(Group { group: builder.build()?, vendor })
}

/// Returns the error that failed the group, or null if it has not failed.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_failure(group: *const Group) -> *mut CError {
    // SAFETY: the caller guarantees that `group` is valid.
    let found = guarded(|| Ok(unsafe { &(*group).group }.failure().map(CError::new)));
    found.ok().flatten().map_or(std::ptr::null_mut(), Box::into_raw)
}

/// Fails the group on all ranks, with the reason `why`.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_abort(group: *const Group, why: Text) {
    // SAFETY: the caller guarantees that `group` is valid.
    let _ = guarded(|| unsafe {
        (*group).group.abort(&text(&why));
        Ok(())
    });
}

/// Waits for unfinished calls and leaves the group, within `timeout_ms` milliseconds. Returns 0, or 1 and an error.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_shutdown(group: *const Group, timeout_ms: i64, error: *mut *mut CError) -> c_int {
    let limit = Duration::from_millis(timeout_ms.max(0) as u64);
    // SAFETY: the caller guarantees that `group` is valid.
    let result = guarded(|| unsafe { &(*group).group }.clone().shutdown_within(limit));
    // SAFETY: the caller guarantees that `error` is null or valid for writes.
    unsafe { answer(result, error) }
}

/// Makes a group of the ranks that are not in `lost`. Returns 0, or 1 and an error.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_shrink(
    group: *const Group,
    lost: *const u32,
    lost_len: usize,
    left: *mut *mut Group,
    error: *mut *mut CError,
) -> c_int {
    // SAFETY: the caller guarantees that `group` is valid and `lost` points to `lost_len` ranks.
    let made = guarded(|| unsafe {
        let Group { group, vendor } = &*group;
        Ok(Group { group: group.shrink(slice(lost, lost_len))?, vendor: *vendor })
    });
    // SAFETY: the caller guarantees that `left` is valid for writes, and `error` is null or valid for writes.
    unsafe {
        let made = made.map(|made| *left = Box::into_raw(Box::new(made)));
        answer(made, error)
    }
}

/// Returns this rank's number in the group.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_rank(group: *const Group) -> u32 {
    // SAFETY: the caller guarantees that `group` is valid.
    unsafe { &(*group).group }.rank()
}

/// Returns the group's world size.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_size(group: *const Group) -> u32 {
    // SAFETY: the caller guarantees that `group` is valid.
    unsafe { &(*group).group }.size()
}

/// Leaves the group if it was not shut down, and frees it. `group` may be null.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_close(group: *mut Group) {
    if !group.is_null() {
        // SAFETY: the caller guarantees that `group` came from this library and is not used again.
        let group = unsafe { Box::from_raw(group) };
        let _ = guarded(|| {
            drop(group);
            Ok(())
        });
    }
}
