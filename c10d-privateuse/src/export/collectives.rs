//! Makes the table of collectives from a backend's registration.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use c10d_core::Error;

use super::catch::{caught, status};
use super::exported::Exported;
use super::group::ExportedGroup;
use super::rows::CapabilityRows;
use super::store::HostTable;
use crate::abi::{self, Collectives, DoneFn, GroupInit, Host, Request, Why};

/// Makes the table. The table points to the heap memory of the rows, which stays in place if `rows` is moved.
pub(super) fn table<E: Exported>(rows: &CapabilityRows) -> Collectives {
    Collectives {
        struct_size: abi::size::<Collectives>(),
        capability_count: rows.rows.len() as u32,
        capabilities: rows.rows.as_ptr(),
        probe: Some(probe::<E>),
        create_group: Some(create_group::<E>),
        destroy_group: Some(destroy_group),
        submit: Some(submit),
        abort: Some(abort),
        shutdown: Some(shutdown),
        split: Some(split::<E>),
        submit_batch: Some(submit_batch),
        async_error: Some(async_error),
    }
}

unsafe extern "C" fn probe<E: Exported>(why: *mut Why) -> i32 {
    let probe = || {
        let found = E::provider().backends.iter().find(|r| r.name == E::NAME);
        found.map_or_else(|| Err(Error::unsupported("its backend is not registered")), |r| (r.probe)())
    };
    // SAFETY: by the ABI, `why` is null or valid.
    unsafe { status(why, probe) }
}

unsafe extern "C" fn create_group<E: Exported>(
    host: *const Host,
    init: *const GroupInit,
    group: *mut *mut c_void,
    why: *mut Why,
) -> i32 {
    let create = || {
        // SAFETY: by the ABI, `host` and `init` are valid during the call, and not shorter than in version 1.0.
        let (host_table, init) = unsafe { (HostTable::new(host), init.read()) };
        // SAFETY: by the ABI, the name has `name_len` bytes, and `group` is valid for writing.
        unsafe { hand_out(ExportedGroup::create::<E>(host_table, &init, &name(&init), None)?, group) };
        Ok(())
    };
    // SAFETY: by the ABI, `why` is null or valid.
    unsafe { status(why, create) }
}

/// # Safety
/// `init` is valid by the ABI.
unsafe fn name(init: &GroupInit) -> std::borrow::Cow<'_, str> {
    // SAFETY: the caller guarantees that the name has `name_len` bytes.
    unsafe { abi::text(init.name, init.name_len) }
}

/// # Safety
/// `group` is valid for writing.
unsafe fn hand_out(made: ExportedGroup, group: *mut *mut c_void) {
    // SAFETY: the caller guarantees it.
    unsafe { group.write(Arc::into_raw(Arc::new(made)).cast_mut().cast()) };
}

unsafe extern "C" fn split<E: Exported>(
    group: *mut c_void,
    ranks: *const u32,
    init: *const GroupInit,
    part: *mut *mut c_void,
    why: *mut Why,
) -> i32 {
    let split = || {
        // SAFETY: by the ABI, `group` comes from `create_group` or `split`, and is not destroyed.
        let parent = unsafe { of(group) };
        if init.is_null() {
            parent.no_split();
            return Ok(());
        }
        // SAFETY: by the ABI, `init` is valid during the call, `ranks` has as many ranks as the part, the name has
        // `name_len` bytes, and `part` is valid for writing.
        unsafe {
            let init = init.read();
            let ranks = std::slice::from_raw_parts(ranks, init.size as usize);
            hand_out(parent.split::<E>(ranks, &init, &name(&init))?, part);
        }
        Ok(())
    };
    // SAFETY: by the ABI, `why` is null or valid.
    unsafe { status(why, split) }
}

/// # Safety
/// `group` comes from `create_group` or `split`, and is not destroyed.
unsafe fn of<'a>(group: *mut c_void) -> &'a ExportedGroup {
    // SAFETY: the caller guarantees it.
    unsafe { &*group.cast::<ExportedGroup>() }
}

unsafe extern "C" fn destroy_group(group: *mut c_void) {
    // SAFETY: by the ABI, `group` comes from `create_group` or `split`, and is destroyed once.
    let _ = caught(|| drop(unsafe { Arc::from_raw(group.cast::<ExportedGroup>()) }));
}

unsafe extern "C" fn submit(
    group: *mut c_void,
    request: *const Request,
    done: Option<DoneFn>,
    token: u64,
    why: *mut Why,
) -> i32 {
    // SAFETY: by the ABI, all pointers are valid; the request and its memory are valid until the operation is done.
    unsafe {
        status(why, || {
            let done = done.ok_or_else(|| Error::invalid("the function `done` is null"))?;
            of(group).submit(&*request, done, token)
        })
    }
}

unsafe extern "C" fn submit_batch(
    group: *mut c_void,
    requests: *const *const Request,
    tokens: *const u64,
    count: u64,
    done: Option<DoneFn>,
    why: *mut Why,
) -> i32 {
    // SAFETY: the same as in `submit`, for `count` requests and tokens.
    unsafe {
        status(why, || {
            let done = done.ok_or_else(|| Error::invalid("the function `done` is null"))?;
            let (requests, tokens) = (
                std::slice::from_raw_parts(requests, count as usize),
                std::slice::from_raw_parts(tokens, count as usize),
            );
            of(group).submit_batch(requests.iter().map(|r| &**r).zip(tokens.iter().copied()), done)
        })
    }
}

unsafe extern "C" fn async_error(group: *mut c_void, guilty: *mut u32, count: *mut u32, why: *mut Why) -> i32 {
    let ask = || {
        // SAFETY: by the ABI, `group` comes from `create_group` or `split`, and is not destroyed.
        let Some(error) = (unsafe { of(group).failure() }) else { return Ok(()) };
        // An error names each rank at most once, so there is room for all.
        for (i, rank) in error.report().guilty.iter().enumerate() {
            // SAFETY: by the ABI, `guilty` has room for all ranks of the group, and `count` is valid for writing.
            unsafe {
                guilty.add(i).write(*rank);
                count.write(i as u32 + 1);
            }
        }
        Err(error)
    };
    // SAFETY: by the ABI, `why` is null or valid.
    unsafe { status(why, ask) }
}

unsafe extern "C" fn abort(group: *mut c_void, cause: *const c_char, len: u64) {
    // SAFETY: by the ABI, the group is not destroyed, and the text has `len` bytes.
    let _ = caught(|| unsafe { of(group).abort(&abi::text(cause, len)) });
}

unsafe extern "C" fn shutdown(group: *mut c_void, timeout_ns: u64, why: *mut Why) -> i32 {
    // SAFETY: by the ABI, the group is not destroyed, and `why` is null or valid.
    unsafe { status(why, || of(group).shutdown(Duration::from_nanos(timeout_ns))) }
}
