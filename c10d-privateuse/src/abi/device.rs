//! A plugin's device runtime.

use std::ffi::{c_char, c_void};

use super::{Sized32, Why};

type CopyIn = unsafe extern "C" fn(u32, u64, *mut c_void, u64, *const c_void, u64, *mut Why) -> i32;
type CopyOut = unsafe extern "C" fn(u32, u64, *mut c_void, *const c_void, u64, u64, *mut Why) -> i32;
type CopyInside = unsafe extern "C" fn(u32, u64, *mut c_void, u64, *const c_void, u64, u64, *mut Why) -> i32;
type Create = unsafe extern "C" fn(u32, *mut u64, *mut Why) -> i32;
type Destroy = unsafe extern "C" fn(u32, u64);
type Pair = unsafe extern "C" fn(u32, u64, u64, *mut Why) -> i32;
type Reduce = unsafe extern "C" fn(u32, u64, u32, u32, *mut c_void, u64, *const c_void, u64, u64, *mut Why) -> i32;

type Identity = unsafe extern "C" fn(u32, *mut c_char, u64, *mut u64, *mut Why) -> i32;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Device {
    pub struct_size: u32,
    pub device_type: u32,
    pub count: Option<unsafe extern "C" fn(*mut u32, *mut Why) -> i32>,
    pub allocate: Option<unsafe extern "C" fn(u32, u64, *mut *mut c_void, *mut Why) -> i32>,
    pub free: Option<unsafe extern "C" fn(u32, *mut c_void)>,
    pub copy_in: Option<CopyIn>,
    pub copy_out: Option<CopyOut>,
    pub copy: Option<CopyInside>,
    pub create_stream: Option<Create>,
    pub destroy_stream: Option<Destroy>,
    pub create_event: Option<Create>,
    pub destroy_event: Option<Destroy>,
    pub record: Option<Pair>,
    pub wait: Option<Pair>,
    pub query: Option<unsafe extern "C" fn(u32, u64, *mut u32, *mut Why) -> i32>,
    pub retain: Option<unsafe extern "C" fn(u32, *mut c_void, *mut Why) -> i32>,
    pub release: Option<unsafe extern "C" fn(u32, *mut c_void)>,
    pub allocate_host: Option<unsafe extern "C" fn(u64) -> *mut c_void>,
    pub free_host: Option<unsafe extern "C" fn(*mut c_void, u64)>,
    pub reduces: Option<unsafe extern "C" fn(u32) -> u32>,
    pub reduce: Option<Reduce>,
    pub identity: Option<Identity>,
}

// SAFETY: `Device` is repr(C), begins with its size, and is valid if all bytes are zero.
unsafe impl Sized32 for Device {
    const LEAST: usize = std::mem::offset_of!(Device, reduces);
    const FUNCTIONS: usize = std::mem::offset_of!(Device, count);
}
