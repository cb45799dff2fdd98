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

/// `c10drs_put`: a function that receives bytes.
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

// SAFETY: the header requires that the functions may be called on any thread, also on several at the same time.
unsafe impl Send for StoreCall {}
// SAFETY: as above.
unsafe impl Sync for StoreCall {}

impl StoreCall {
    /// Sends a request to the store. Returns the number and the bytes of the answer, or why the request failed.
    pub(crate) fn call(&self, verb: Verb, args: &[&[u8]], number: i64, millis: i64) -> Result<(i64, Vec<u8>), String> {
        unsafe extern "C" fn put(sink: *mut c_void, bytes: *const c_void, len: usize) {
            // SAFETY: the sink is the vector below, and the store passes valid bytes.
            unsafe { (*sink.cast::<Vec<u8>>()).extend_from_slice(slice(bytes.cast::<u8>(), len)) }
        }
        let args: Vec<Text> = args.iter().map(|a| Text { data: a.as_ptr().cast(), len: a.len() }).collect();
        let (mut out, mut bytes) = (0i64, Vec::<u8>::new());
        // SAFETY: the header requires that `call` may be called with `context`. The arguments and the sink are valid
        // until the call returns.
        let code = unsafe {
            let sink = (&raw mut bytes).cast();
            (self.call)(self.context, verb as u32, args.as_ptr(), args.len(), number, millis, &raw mut out, sink, put)
        };
        if code == 0 { Ok((out, bytes)) } else { Err(String::from_utf8_lossy(&bytes).into_owned()) }
    }
}

impl Drop for StoreCall {
    fn drop(&mut self) {
        // SAFETY: the header requires that `release` may be called once with `context`. A value is dropped once, and
        // does not call the store afterwards.
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
    /// The backend of each device, as a backend map. If it is empty, the default backends are used.
    pub(super) backends: Text,
    /// An init method. If it is not empty, it replaces `rank` and `size`.
    pub(super) url: Text,
    /// The names and values of hints, alternating.
    pub(super) hints: *const Text,
    pub(super) hints_len: usize,
    pub(super) store: *const StoreCall,
    pub(super) device_kind: u32,
    pub(super) device_index: u32,
    /// The name of the device of kind PrivateUse1. If it is empty, the default device is used.
    pub(super) private_use1: Text,
}

/// `c10drs_tensor`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tensor {
    pub(super) data: *mut c_void,
    pub(super) offset: u64,
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
    /// The call's timeout in milliseconds; -1 means the group's timeout.
    pub(crate) timeout_ms: i64,
    pub(crate) device_kind: u32,
    pub(crate) device_index: u32,
    pub(crate) stream: u64,
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
    /// Makes the arguments for the only rank of a group of one, with default settings.
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
            private_use1: none,
        }
    }
}

impl Tensor {
    /// Makes a tensor of the `count` elements at `data`.
    pub fn new(data: *mut c_void, count: u64, dtype: u32) -> Tensor {
        Tensor { data, offset: 0, count, dtype }
    }
}

impl CallSpec {
    /// Makes a call of this op on host memory, without tensors.
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
            stream: 0,
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

    /// Sets the tensors that the call writes. The list must stay valid until the call was run or started.
    pub fn set_outputs(&mut self, outputs: *const Tensor, len: usize) {
        (self.outputs, self.outputs_len) = (outputs, len);
    }
}
