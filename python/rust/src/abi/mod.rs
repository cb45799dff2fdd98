//! The C interface: the functions and structs of `c10d_rs.h`.
//!
//! Each function converts its C arguments, calls the safe code of the other modules, and converts the result back. A
//! panic becomes an error of kind `Internal`.
#![allow(unsafe_code)]

mod calls;
mod group;
mod structs;
mod works;

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use c10d::{Error, ErrorKind, Result};

use crate::error::CError;
use crate::info::info;

pub use calls::{c10drs_run, c10drs_sparse_all_reduce, c10drs_start};
pub use group::{
    Group, c10drs_abort, c10drs_close, c10drs_failure, c10drs_open, c10drs_rank, c10drs_shrink, c10drs_shutdown,
    c10drs_size,
};
pub use structs::{CallSpec, Give, Init, Put, SparseSpec, StoreCall, Tensor, Text};
pub use works::{WorkHandle, c10drs_work_done, c10drs_work_free, c10drs_work_notify, c10drs_work_wait};

/// `C10DRS_ABI` of the header. It increases with every incompatible change of the header.
pub const ABI: u32 = 2;

/// Runs `run`, and returns an error if it panics.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        // The payload is leaked, because dropping it may panic, too.
        std::mem::forget(payload);
        let what = "a defect of c10d_rs: the call panicked; standard error has the message";
        Err(Error::new(ErrorKind::Internal, what))
    })
}

/// Returns 0, or stores the error and returns 1.
///
/// # Safety
/// `error` must be null or valid for writes.
unsafe fn answer(result: Result, error: *mut *mut CError) -> c_int {
    let Err(e) = result else { return 0 };
    if !error.is_null() {
        // SAFETY: `error` is not null, so the caller guarantees that it is valid for writes.
        unsafe { *error = Box::into_raw(CError::new(&e)) };
    }
    1
}

/// Returns the version of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn c10drs_abi() -> u32 {
    ABI
}

/// Passes a text with the library's version, its backends and plugins, and the backend of each op to `put`.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_info(sink: *mut c_void, put: Put) {
    let words = guarded(info).unwrap_or_else(|e| e.to_string());
    // SAFETY: the caller guarantees that `put` may be called with `sink`, and the text is valid during the call.
    unsafe { put(sink, words.as_ptr().cast(), words.len()) }
}

/// Frees an error, which may be null.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_error_free(error: *mut CError) {
    if !error.is_null() {
        // SAFETY: the caller guarantees that `error` came from this library and is not used again.
        drop(unsafe { Box::from_raw(error) });
    }
}
