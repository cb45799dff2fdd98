//! The structs of the interface.

use std::ffi::{c_char, c_int, c_void};

use c10d::Result;

use crate::memory::slice;
use crate::store::Verb;

/// `c10drs_text`: bytes without a terminator.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text {
    pub(super) data: *const c_char,
    pub(super) len: usize,
}

/// `c10drs_put`: receives bytes, instead of a return value.
pub type Put = unsafe extern "C" fn(sink: *mut c_void, bytes: *const c_void, len: usize);

/// `c10drs_store`.
#[derive(Debug)]
#[repr(C)]
pub struct StoreCall {
    context: *mut c_void,
    call: unsafe extern "C" fn(
        context: *mut c_void,
        verb: u32,
        args: *const Text,
        len: usize,
        number: i64,
        timeout_ms: i64,
        out: *mut i64,
        sink: *mut c_void,
        put: Put,
    ) -> c_int,
    release: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: the header demands that the functions may be called on any thread, also at once.
unsafe impl Send for StoreCall {}
// SAFETY: as above.
unsafe impl Sync for StoreCall {}

impl StoreCall {
    /// Sends a request to the store. Returns its number and bytes, or its reason.
    pub(crate) fn call(&self, verb: Verb, args: &[&[u8]], number: i64, millis: i64) -> Result<(i64, Vec<u8>), String> {
        unsafe extern "C" fn put(sink: *mut c_void, bytes: *const c_void, len: usize) {
            // SAFETY: the sink is the vector below, and the store passes valid bytes.
            unsafe { (*sink.cast::<Vec<u8>>()).extend_from_slice(slice(bytes.cast::<u8>(), len)) }
        }
        let args: Vec<Text> = args.iter().map(|a| Text { data: a.as_ptr().cast(), len: a.len() }).collect();
        let (mut out, mut bytes) = (0i64, Vec::<u8>::new());
        // SAFETY: the header requires it; everything is valid until the call returns.
        let code = unsafe {
            let sink = (&raw mut bytes).cast();
            (self.call)(self.context, verb as u32, args.as_ptr(), args.len(), number, millis, &raw mut out, sink, put)
        };
        if code == 0 { Ok((out, bytes)) } else { Err(String::from_utf8_lossy(&bytes).into_owned()) }
    }
}

impl Drop for StoreCall {
    fn drop(&mut self) {
        // SAFETY: this is the only call of it; the store is no longer used.
        unsafe { (self.release)(self.context) }
    }
}

/// `c10drs_init`.
#[derive(Debug)]
#[repr(C)]
pub struct Init {
    /// The size of the struct, which distinguishes versions.
    pub bytes: usize,
    pub(super) rank: u32,
    pub(super) size: u32,
    pub(super) timeout_ms: i64,
    pub(super) name: Text,
    /// The prefix of all keys; it may be empty.
    pub(super) prefix: Text,
    /// The backend of each device; the default ones if empty.
    pub(super) backends: Text,
    /// An init method, instead of store, rank and size.
    pub(super) url: Text,
    /// Names and values, alternating.
    pub(super) hints: *const Text,
    pub(super) hints_len: usize,
    pub(super) store: *const StoreCall,
    pub(super) device_kind: u32,
    pub(super) device_index: u32,
}

/// `c10drs_tensor`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tensor {
    pub(super) data: *mut c_void,
    pub(super) count: u64,
    pub(super) dtype: u32,
}

/// `c10drs_call`.
#[derive(Debug)]
#[repr(C)]
pub struct CallSpec {
    pub(crate) op: u32,
    /// c10d's code of the reduce operation.
    pub reduce: u32,
    pub(crate) factor: f64,
    pub(crate) root: u32,
    pub(crate) peer: u32,
    pub(crate) tag: u32,
    pub(crate) wait_all_ranks: u32,
    /// -1: the group's.
    pub(crate) timeout_ms: i64,
    pub(crate) device_kind: u32,
    pub(crate) device_index: u32,
    pub(super) inputs: *const Tensor,
    pub(super) inputs_len: usize,
    pub(super) outputs: *const Tensor,
    pub(super) outputs_len: usize,
    pub(super) input_splits: *const u64,
    pub(super) input_splits_len: usize,
    pub(super) output_splits: *const u64,
    pub(super) output_splits_len: usize,
}

/// `c10drs_sparse`.
#[derive(Debug)]
#[repr(C)]
pub struct SparseSpec {
    pub(super) shape: *const u64,
    pub(super) dims: usize,
    pub(super) sparse_dim: usize,
    pub(super) coalesced: u32,
    pub(super) dtype: u32,
    pub(super) indices: *const i64,
    pub(super) nnz: usize,
    pub(super) values: *const c_void,
    pub(super) values_len: usize,
}

/// `c10drs_give`: receives the result of a sparse all-reduce.
pub type Give = unsafe extern "C" fn(
    context: *mut c_void,
    indices: *const i64,
    indices_len: usize,
    values: *const c_void,
    values_len: usize,
);

impl Init {
    /// The only rank of a group of one, with defaults.
    pub fn alone() -> Init {
        let none = Text { data: std::ptr::null(), len: 0 };
        let name = Text { data: c"alone".as_ptr(), len: 5 };
        Init {
            bytes: size_of::<Init>(),
            rank: 0,
            size: 1,
            timeout_ms: 10_000,
            name,
            prefix: none,
            backends: none,
            url: none,
            hints: std::ptr::null(),
            hints_len: 0,
            store: std::ptr::null(),
            device_kind: 0,
            device_index: 0,
        }
    }
}

impl Tensor {
    /// `count` elements at `data`.
    pub fn new(data: *mut c_void, count: u64, dtype: u32) -> Tensor {
        Tensor { data, count, dtype }
    }
}

impl CallSpec {
    /// A call of this op, on the host, without tensors.
    pub fn new(op: u32) -> CallSpec {
        CallSpec {
            op,
            reduce: 0,
            factor: 1.0,
            root: 0,
            peer: 0,
            tag: 0,
            wait_all_ranks: 0,
            timeout_ms: -1,
            device_kind: 1,
            device_index: 0,
            inputs: std::ptr::null(),
            inputs_len: 0,
            outputs: std::ptr::null(),
            outputs_len: 0,
            input_splits: std::ptr::null(),
            input_splits_len: 0,
            output_splits: std::ptr::null(),
            output_splits_len: 0,
        }
    }

    /// What is written. The list must be there until the call was given away.
    pub fn set_outputs(&mut self, outputs: *const Tensor, len: usize) {
        (self.outputs, self.outputs_len) = (outputs, len);
    }
}
