//! The plugin's tables.

use std::ffi::{c_char, c_void};

use c10d_core::ReduceOp;

use super::{Device, DoneFn, Host, Request, Sized32, Why};

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Capabilities {
    pub struct_size: u32,
    pub device_type: i32,
    pub ops: u32,
    pub moves: u32,
    pub reduces: [u32; ReduceOp::COUNT],
    pub op_count: u32,
    pub by_op: *const u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct GroupInit {
    pub struct_size: u32,
    pub rank: u32,
    pub size: u32,
    pub reserved: u32,
    pub name: *const c_char,
    pub name_len: u64,
    pub session: [u8; 16],
    pub store: u64,
    pub timeout_ns: u64,
    pub aborted: *const u32,
}

type CreateGroup = unsafe extern "C" fn(*const Host, *const GroupInit, *mut *mut c_void, *mut Why) -> i32;
type Submit = unsafe extern "C" fn(*mut c_void, *const Request, Option<DoneFn>, u64, *mut Why) -> i32;
type Split = unsafe extern "C" fn(*mut c_void, *const u32, *const GroupInit, *mut *mut c_void, *mut Why) -> i32;
type SubmitBatch =
    unsafe extern "C" fn(*mut c_void, *const *const Request, *const u64, u64, Option<DoneFn>, *mut Why) -> i32;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Collectives {
    pub struct_size: u32,
    pub capability_count: u32,
    pub capabilities: *const Capabilities,
    pub probe: Option<unsafe extern "C" fn(*mut Why) -> i32>,
    pub create_group: Option<CreateGroup>,
    pub destroy_group: Option<unsafe extern "C" fn(*mut c_void)>,
    pub submit: Option<Submit>,
    pub abort: Option<unsafe extern "C" fn(*mut c_void, *const c_char, u64)>,
    pub shutdown: Option<unsafe extern "C" fn(*mut c_void, u64, *mut Why) -> i32>,
    pub split: Option<Split>,
    pub submit_batch: Option<SubmitBatch>,
    pub async_error: Option<unsafe extern "C" fn(*mut c_void, *mut u32, *mut u32, *mut Why) -> i32>,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Plugin {
    pub struct_size: u32,
    pub abi_minor: u32,
    pub name: *const c_char,
    pub name_len: u64,
    pub version: *const c_char,
    pub version_len: u64,
    pub device: *const Device,
    pub collectives: *const Collectives,
}

// SAFETY: after the plugin has returned a table, nobody writes to it.
unsafe impl Sync for Plugin {}
// SAFETY: the same as for `Sync`.
unsafe impl Send for Plugin {}
// SAFETY: the same as for `Plugin`.
unsafe impl Sync for Collectives {}
// SAFETY: the same as for `Plugin`.
unsafe impl Send for Collectives {}
// SAFETY: the same as for `Plugin`.
unsafe impl Sync for Capabilities {}
// SAFETY: the same as for `Plugin`.
unsafe impl Send for Capabilities {}

// SAFETY: `Capabilities` is repr(C), begins with its size, and is valid if all bytes are zero.
unsafe impl Sized32 for Capabilities {
    const LEAST: usize = std::mem::offset_of!(Capabilities, by_op);
}
// SAFETY: the same as for `Capabilities`.
unsafe impl Sized32 for GroupInit {
    const LEAST: usize = size_of::<GroupInit>();
}
// SAFETY: the same as for `Capabilities`.
unsafe impl Sized32 for Collectives {
    const LEAST: usize = std::mem::offset_of!(Collectives, shutdown);
    const FUNCTIONS: usize = std::mem::offset_of!(Collectives, probe);
}
// SAFETY: the same as for `Capabilities`.
unsafe impl Sized32 for Plugin {
    const LEAST: usize = size_of::<Plugin>();
}
