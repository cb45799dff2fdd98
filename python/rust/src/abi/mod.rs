//! The border: the functions and structs of `c10d_rs.h`.
//!
//! Each function converts the arguments from C to values of the library, calls the safe code of the other modules, and
//! converts the result back. A panic becomes an error of kind `Internal`.
#![allow(unsafe_code)]

mod calls;
mod group;
mod structs;
mod works;

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use c10d::{Error, ErrorKind, Result, backend::Registry};

use crate::error::Report;

pub use calls::{c10drs_run, c10drs_sparse_all_reduce, c10drs_start};
pub use group::{
    Group, c10drs_abort, c10drs_close, c10drs_failure, c10drs_open, c10drs_rank, c10drs_shrink, c10drs_shutdown,
    c10drs_size,
};
pub use structs::{CallSpec, Give, Init, Put, SparseSpec, StoreCall, Tensor, Text};
pub use works::{WorkHandle, c10drs_work_done, c10drs_work_free, c10drs_work_notify, c10drs_work_wait};

/// `C10DRS_ABI`, which increases with every incompatible change of the header.
pub const ABI: u32 = 1;

/// Runs safe code; a panic becomes an error.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        // Its drop may also panic.
        std::mem::forget(payload);
        Err(Error::new(ErrorKind::Internal, "a defect of c10d_rs: the call panicked; its words are on stderr"))
    })
}

/// 0, or 1 and the error.
///
/// # Safety
/// `error` is null, or there is room for a pointer.
unsafe fn answer(result: Result, error: *mut *mut Report) -> c_int {
    let Err(e) = result else { return 0 };
    if !error.is_null() {
        // SAFETY: the caller guarantees it.
        unsafe { *error = Box::into_raw(Report::new(&e)) };
    }
    1
}

/// The version of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn c10drs_abi() -> u32 {
    ABI
}

/// Puts a text with the library's version and the registered backends and devices.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_info(sink: *mut c_void, put: Put) {
    let words = guarded(|| Ok(info())).unwrap_or_else(|e| e.to_string());
    // SAFETY: the caller guarantees it.
    unsafe { put(sink, words.as_ptr().cast(), words.len()) }
}

fn info() -> String {
    let mut out = format!("version {}\n", env!("CARGO_PKG_VERSION"));
    match Registry::collect(c10d::builtin()) {
        Ok(registry) => {
            for (backend, source) in registry.backends() {
                let devices: Vec<_> = backend.keys.iter().map(|key| key.device_word()).collect();
                let why = (backend.probe)().err().map(|e| e.report().what.clone());
                let (name, why) = (backend.name, why.map_or("available".to_owned(), |why| format!("not here: {why}")));
                out += &format!("backend {name} of {source}, devices {}: {why}\n", devices.join(", "));
            }
        }
        Err(e) => out += &format!("{e}\n"),
    }
    out
}

/// Frees an error.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_error_free(error: *mut Report) {
    if !error.is_null() {
        // SAFETY: the caller guarantees it.
        drop(unsafe { Box::from_raw(error) });
    }
}
