//! The table of the host's functions.

use std::ffi::{c_char, c_void};

use super::{Sized32, Why};

type StoreSet = unsafe extern "C" fn(*const Host, u64, *const c_char, u64, *const c_void, u64, u64, *mut Why) -> i32;
type StoreGet =
    unsafe extern "C" fn(*const Host, u64, *const c_char, u64, *mut c_void, u64, *mut u64, u64, *mut Why) -> i32;
type StoreWait = unsafe extern "C" fn(*const Host, u64, *const c_char, u64, u64, *mut Why) -> i32;
type StoreAdd = unsafe extern "C" fn(*const Host, u64, *const c_char, u64, i64, *mut i64, u64, *mut Why) -> i32;
type StoreCompareSet = unsafe extern "C" fn(
    *const Host,
    u64,
    *const c_char,
    u64,
    *const c_void,
    u64,
    *const c_void,
    u64,
    *mut c_void,
    u64,
    *mut u64,
    u64,
    *mut Why,
) -> i32;
type StoreAsk = unsafe extern "C" fn(*const Host, u64, *const c_char, u64, *mut u32, u64, *mut Why) -> i32;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Host {
    pub struct_size: u32,
    pub abi_minor: u32,
    pub log: Option<unsafe extern "C" fn(*const Host, u32, *const c_char, u64)>,
    pub store_set: Option<StoreSet>,
    pub store_get: Option<StoreGet>,
    pub store_wait: Option<StoreWait>,
    pub store_add: Option<StoreAdd>,
    pub store_compare_set: Option<StoreCompareSet>,
    pub store_append: Option<StoreSet>,
    pub store_check: Option<StoreAsk>,
    pub store_delete: Option<StoreAsk>,
    pub now: Option<unsafe extern "C" fn(*const Host) -> u64>,
}

// SAFETY: `Host` is repr(C), begins with its size, and is valid if all bytes are zero.
unsafe impl Sized32 for Host {
    const LEAST: usize = std::mem::offset_of!(Host, store_add);
}
