//! Making, using and closing groups.

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use c10d::{Error, ProcessGroup, Result, Store};

use super::structs::{Init, StoreCall, Text};
use super::{answer, guarded};
use crate::call;
use crate::error::Report;
use crate::memory::slice;
use crate::store::Foreign;

/// `c10drs_group`.
pub struct Group(pub(super) ProcessGroup);

/// # Safety
/// The requirements of `c10d_rs.h`.
unsafe fn text(text: &Text) -> String {
    // SAFETY: the caller guarantees it.
    String::from_utf8_lossy(unsafe { slice(text.data.cast::<u8>(), text.len) }).into_owned()
}

/// Makes a group. It blocks until all ranks have joined.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_open(init: *const Init, group: *mut *mut Group, error: *mut *mut Report) -> c_int {
    // The store is taken over even on errors.
    // SAFETY: the caller guarantees it.
    let (init, store) = unsafe { (&*init, (*init).store.as_ref().map(|store| std::ptr::read(store))) };
    // SAFETY: the caller guarantees it.
    let made = guarded(|| unsafe { open(init, store) });
    // SAFETY: the caller guarantees it.
    unsafe {
        let made = made.map(|made| *group = Box::into_raw(Box::new(Group(made))));
        answer(made, error)
    }
}

/// # Safety
/// The requirements of `c10d_rs.h`.
unsafe fn open(init: &Init, store: Option<StoreCall>) -> Result<ProcessGroup> {
    if init.bytes != size_of::<Init>() {
        let what = format!("c10drs_init has {} bytes, not {}: another version's", size_of::<Init>(), init.bytes);
        return Err(Error::invalid(what));
    }
    // SAFETY: the caller guarantees it.
    let (name, prefix, backends, url) =
        unsafe { (text(&init.name), text(&init.prefix), text(&init.backends), text(&init.url)) };
    let timeout = Duration::from_millis(init.timeout_ms.max(1) as u64);
    let mut builder = c10d::builder().name(&name).timeout(timeout).backend(&backends);
    if url.is_empty() {
        builder = builder.rank(init.rank).size(init.size);
    } else {
        builder = builder.init(&url);
    }
    if let Some(store) = store {
        let store: Arc<dyn Store> = Arc::new(Foreign(store));
        builder = builder.store(match prefix.is_empty() {
            true => store,
            false => Arc::new(c10d::PrefixStore::new(prefix, store)),
        });
    }
    // SAFETY: the caller guarantees it.
    let hints = unsafe { slice(init.hints, init.hints_len) };
    for pair in hints.chunks_exact(2) {
        // SAFETY: the caller guarantees it.
        let (name, value) = unsafe { (text(&pair[0]), text(&pair[1])) };
        builder = builder.hint(&name, &value);
    }
    if init.device_kind != 0 {
        builder = builder.device(call::device(init.device_kind, init.device_index)?);
    }
    builder.build()
}

/// The group's failure, or null.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_failure(group: *const Group) -> *mut Report {
    // SAFETY: the caller guarantees it.
    let found = guarded(|| Ok(unsafe { &(*group).0 }.failure().map(Report::new)));
    found.ok().flatten().map_or(std::ptr::null_mut(), Box::into_raw)
}

/// Fails the group.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_abort(group: *const Group, why: Text) {
    // SAFETY: the caller guarantees it.
    let _ = guarded(|| unsafe {
        (*group).0.abort(&text(&why));
        Ok(())
    });
}

/// Waits for unfinished calls and leaves the group, within this time.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_shutdown(group: *const Group, timeout_ms: i64, error: *mut *mut Report) -> c_int {
    let limit = Duration::from_millis(timeout_ms.max(0) as u64);
    // SAFETY: the caller guarantees it.
    let result = guarded(|| unsafe { &(*group).0 }.clone().shutdown_within(limit));
    // SAFETY: the caller guarantees it.
    unsafe { answer(result, error) }
}

/// Makes a group of the remaining ranks.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_shrink(
    group: *const Group,
    lost: *const u32,
    lost_len: usize,
    left: *mut *mut Group,
    error: *mut *mut Report,
) -> c_int {
    // SAFETY: the caller guarantees it.
    let made = guarded(|| unsafe { (*group).0.shrink(slice(lost, lost_len)) });
    // SAFETY: the caller guarantees it.
    unsafe {
        let made = made.map(|made| *left = Box::into_raw(Box::new(Group(made))));
        answer(made, error)
    }
}

/// A group's rank.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_rank(group: *const Group) -> u32 {
    // SAFETY: the caller guarantees it.
    unsafe { &(*group).0 }.rank()
}

/// A group's size.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_size(group: *const Group) -> u32 {
    // SAFETY: the caller guarantees it.
    unsafe { &(*group).0 }.size()
}

/// Frees the group, after leaving it if it was not shut down.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_close(group: *mut Group) {
    if !group.is_null() {
        // SAFETY: the caller guarantees it.
        let group = unsafe { Box::from_raw(group) };
        let _ = guarded(|| {
            drop(group);
            Ok(())
        });
    }
}
