//! The collectives' table, from a backend's registration.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use c10d_core::ops::{OpKind, OpSet};
use c10d_core::{Capabilities, DispatchKey, Error};

use super::catch::{caught, status};
use super::entry::{Exported, runtime};
use super::group::ExportedGroup;
use super::store::Given;
use crate::abi::{self, Collectives, DoneFn, GroupInit, Host, Request, Why, codes};

/// One row for each key that the border knows.
pub(super) fn rows(offers: &Capabilities, keys: &[DispatchKey]) -> Vec<abi::Capabilities> {
    let device_type = |key: &DispatchKey| match key {
        DispatchKey::Cpu => Some(codes::DEVICE_CPU),
        DispatchKey::PrivateUse1 => Some(codes::DEVICE_PRIVATE),
        _ => None,
    };
    let has =
        |set: &OpSet| OpKind::ALL.iter().filter(|op| set.contains(**op)).fold(0, |bits, op| bits | 1 << *op as u32);
    let row = |device_type| abi::Capabilities {
        device_type,
        ops: has(&offers.ops),
        moves: codes::bits(offers.moves),
        reduces: offers.reduces.map(codes::bits),
        ..abi::empty()
    };
    keys.iter().filter_map(device_type).map(row).collect()
}

pub(super) fn table<E: Exported>(rows: &[abi::Capabilities]) -> Collectives {
    Collectives {
        struct_size: abi::size::<Collectives>(),
        capability_count: rows.len() as u32,
        capabilities: rows.as_ptr(),
        probe: Some(probe::<E>),
        create_group: Some(create_group::<E>),
        destroy_group: Some(destroy_group),
        submit: Some(submit),
        abort: Some(abort),
        shutdown: Some(shutdown),
    }
}

unsafe extern "C" fn probe<E: Exported>(why: *mut Why) -> i32 {
    let probe = || {
        let found = E::provider().backends.iter().find(|r| r.name == E::NAME);
        found.map_or_else(|| Err(Error::unsupported("it is not registered")), |r| (r.probe)())
    };
    // SAFETY: the ABI: null or valid.
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
        let (given, init) = unsafe { (Given::new(host), init.read()) };
        // SAFETY: the ABI: text with its length.
        let name = unsafe { abi::text(init.name, init.name_len) };
        let runtime =
            if E::provider().devices.iter().any(|d| d.name == E::NAME) { Some(runtime::<E>()?) } else { None };
        let made = ExportedGroup::create::<E>(given, &init, &name, runtime.cloned())?;
        // SAFETY: the ABI: a place for the pointer.
        unsafe { group.write(Arc::into_raw(Arc::new(made)).cast_mut().cast()) };
        Ok(())
    };
    // SAFETY: the ABI: null or valid.
    unsafe { status(why, create) }
}

/// # Safety
/// From `create_group`, not destroyed yet.
unsafe fn of<'a>(group: *mut c_void) -> &'a ExportedGroup {
    // SAFETY: as promised.
    unsafe { &*group.cast::<ExportedGroup>() }
}

unsafe extern "C" fn destroy_group(group: *mut c_void) {
    // SAFETY: the ABI: from `create_group`, once.
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

unsafe extern "C" fn abort(group: *mut c_void, cause: *const c_char, len: u64) {
    // SAFETY: the ABI: a group, and text with its length.
    let _ = caught(|| unsafe { of(group).abort(&abi::text(cause, len)) });
}

unsafe extern "C" fn shutdown(group: *mut c_void, timeout_ns: u64, why: *mut Why) -> i32 {
    // SAFETY: the ABI: a group; null or valid.
    unsafe { status(why, || of(group).shutdown(Duration::from_nanos(timeout_ns))) }
}
