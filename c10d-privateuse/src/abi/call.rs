//! The structs of one operation.

use std::ffi::{c_char, c_void};

use super::{Host, Sized32};

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Span {
    pub struct_size: u32,
    pub dtype: u32,
    pub data: *mut c_void,
    pub offset: u64,
    pub count: u64,
    pub device_type: i32,
    pub device_id: i32,
    pub type_code: u8,
    pub type_bits: u8,
    pub type_lanes: u16,
    pub reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Request {
    pub struct_size: u32,
    pub op: u32,
    pub dtype: u32,
    pub reduce: u32,
    pub factor: f64,
    pub root: u32,
    pub peer: u32,
    pub tag: u32,
    pub flags: u32,
    pub seq: u64,
    pub timeout_ns: u64,
    pub stream: u64,
    pub inputs: *const Span,
    pub input_count: u64,
    pub outputs: *const Span,
    pub output_count: u64,
    pub output_row: u64,
    pub input_splits: *const u64,
    pub output_splits: *const u64,
    pub fingerprint: [u8; 24],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Result {
    pub struct_size: u32,
    pub status: i32,
    pub source: u32,
    pub guilty_count: u32,
    pub guilty: *const u32,
    pub message: *const c_char,
    pub message_len: u64,
    pub fingerprint: *const u8,
    pub field: *const c_char,
    pub field_len: u64,
    pub mine: *const c_char,
    pub mine_len: u64,
    pub theirs: *const c_char,
    pub theirs_len: u64,
}

pub type DoneFn = unsafe extern "C" fn(*const Host, u64, *const Result);

// SAFETY: `Span` is repr(C), begins with its size, and is valid if all bytes are zero.
unsafe impl Sized32 for Span {
    const LEAST: usize = size_of::<Span>();
}
// SAFETY: the same as for `Span`.
unsafe impl Sized32 for Request {
    const LEAST: usize = size_of::<Request>();
}
// SAFETY: the same as for `Span`.
unsafe impl Sized32 for Result {
    const LEAST: usize = size_of::<Result>();
}
