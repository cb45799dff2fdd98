//! The functions of the interface for started calls.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::{answer, guarded};
use crate::error::CError;
use crate::memory::Callback;
use crate::work::Started;

/// `c10drs_work` of the header.
pub struct WorkHandle(pub(super) Arc<Started>);

/// Returns 1 if the op is finished, else 0.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_done(work: *const WorkHandle) -> c_int {
    // SAFETY: the caller guarantees that `work` is valid.
    c_int::from(unsafe { &(*work).0 }.is_done())
}

/// Waits for at most `timeout_ms` milliseconds, or, if `timeout_ms` is -1, until the op is finished. Returns 0 if the
/// op succeeded, 1 and the error if it failed, and 2 if it is not finished.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_wait(
    work: *const WorkHandle,
    timeout_ms: i64,
    source: *mut u32,
    error: *mut *mut CError,
) -> c_int {
    let patience = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    // SAFETY: the caller guarantees that `work` is valid.
    let outcome = guarded(|| Ok(unsafe { &(*work).0 }.wait(patience)));
    // SAFETY: the caller guarantees that `source` and `error` are null or valid for writes.
    unsafe {
        match outcome {
            Ok(None) => 2,
            Ok(Some(Ok(from))) => {
                if !source.is_null() {
                    *source = from;
                }
                0
            }
            Ok(Some(Err(e))) | Err(e) => answer(Err(e), error),
        }
    }
}

/// Makes the library call `function(context)` once, on any thread, when the op is finished, and returns 1. If the op is
/// already finished, returns 0 and does not call the function.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_notify(
    work: *const WorkHandle,
    function: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
) -> c_int {
    // SAFETY: the caller guarantees that `work` is valid, and that `function(context)` may be called once on any
    // thread.
    let (started, tell) = unsafe { (&(*work).0, Callback::new(function, context)) };
    c_int::from(guarded(|| Ok(started.notify(tell))).unwrap_or(false))
}

/// Frees the handle, which may be null. The op continues, but the function of `c10drs_work_notify` is not called any
/// more.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_free(work: *mut WorkHandle) {
    if !work.is_null() {
        // SAFETY: the caller guarantees that `work` came from this library and is not used again.
        let work = unsafe { Box::from_raw(work) };
        let _ = guarded(|| {
            drop(work);
            Ok(())
        });
    }
}
