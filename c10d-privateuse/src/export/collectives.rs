//! Makes the table of collectives from a backend's registration.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use c10d_core::Error;

use super::catch::{caught, status};
use super::exported::Exported;
use super::group::ExportedGroup;
use super::rows::Rows;
use super::store::HostTable;
use crate::abi::{self, Collectives, DoneFn, GroupInit, Host, Request, Why};

/// The memory of the rows does not move with them.
pub(super) fn table<E: Exported>(rows: &Rows) -> Collectives {
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
        found.map_or_else(|| Err(Error::unsupported("it is not registered")), |r| (r.probe)())
    };
    // SAFETY: by the ABI it is null or valid.
    unsafe { status(why, probe) }
}

unsafe extern "C" fn create_group<E: Exported>(
    host: *const Host,
    init: *const GroupInit,
    group: *mut *mut c_void,
    why: *mut Why,
) -> i32 {
    let create = || {
        // SAFETY: the ABI: valid for the call, and as long as version 1.0 has it.
        let (host_table, init) = unsafe { (HostTable::new(host), init.read()) };
        // SAFETY: by the ABI these are text with its length, and a place for the pointer.
        unsafe { hand_out(ExportedGroup::create::<E>(host_table, &init, &name(&init), None)?, group) };
        Ok(())
    };
    // SAFETY: by the ABI it is null or valid.
    unsafe { status(why, create) }
}

/// # Safety
/// The layout is that of the ABI.
unsafe fn name(init: &GroupInit) -> std::borrow::Cow<'_, str> {
    // SAFETY: the caller guarantees that it is text with its length.
    unsafe { abi::text(init.name, init.name_len) }
}

/// # Safety
/// `group` is a place for the pointer.
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
        // SAFETY: by the ABI it is a group.
        let parent = unsafe { of(group) };
        if init.is_null() {
            parent.no_split();
            return Ok(());
        }
        // SAFETY: the ABI: valid for the call; as many ranks as the part has; text with its length, a place for the pointer.
        unsafe {
            let init = init.read();
            let ranks = std::slice::from_raw_parts(ranks, init.size as usize);
            hand_out(parent.split::<E>(ranks, &init, &name(&init))?, part);
        }
        Ok(())
    };
    // SAFETY: by the ABI it is null or valid.
    unsafe { status(why, split) }
}

/// # Safety
/// From `create_group`, not destroyed yet.
unsafe fn of<'a>(group: *mut c_void) -> &'a ExportedGroup {
    // SAFETY: the caller guarantees it.
    unsafe { &*group.cast::<ExportedGroup>() }
}

unsafe extern "C" fn destroy_group(group: *mut c_void) {
    // SAFETY: by the ABI it comes from `create_group`, and is used once.
    let _ = caught(|| drop(unsafe { Arc::from_raw(group.cast::<ExportedGroup>()) }));
}

unsafe extern "C" fn submit(
    group: *mut c_void,
    request: *const Request,
    done: Option<DoneFn>,
    token: u64,
    why: *mut Why,
) -> i32 {
    // SAFETY: the ABI: all of these are valid; the request and its memory until the operation is done.
    unsafe {
        status(why, || {
            let done = done.ok_or_else(|| Error::invalid("there is no function to say that it is done"))?;
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
    // SAFETY: the same as in `submit`, `count` times.
    unsafe {
        status(why, || {
            let done = done.ok_or_else(|| Error::invalid("there is no function to say that it is done"))?;
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
        // SAFETY: by the ABI it is a group.
        let Some(error) = (unsafe { of(group).failure() }) else { return Ok(()) };
        // Each rank is named at most once, so there is room for all.
        for (i, rank) in error.report().guilty.iter().enumerate() {
            // SAFETY: by the ABI there is room for the ranks of the group and for their number.
            unsafe {
                guilty.add(i).write(*rank);
                count.write(i as u32 + 1);
            }
        }
        Err(error)
    };
    // SAFETY: by the ABI it is null or valid.
    unsafe { status(why, ask) }
}

unsafe extern "C" fn abort(group: *mut c_void, cause: *const c_char, len: u64) {
    // SAFETY: by the ABI these are a group, and text with its length.
    let _ = caught(|| unsafe { of(group).abort(&abi::text(cause, len)) });
}

unsafe extern "C" fn shutdown(group: *mut c_void, timeout_ns: u64, why: *mut Why) -> i32 {
    // SAFETY: by the ABI these are a group, and null or a valid pointer.
    unsafe { status(why, || of(group).shutdown(Duration::from_nanos(timeout_ns))) }
}
