//! Started calls.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::{answer, guarded};
use crate::error::Report;
use crate::memory::Callback;
use crate::work::Started;

/// `c10drs_work`.
pub struct WorkHandle(pub(super) Arc<Started>);

/// Whether the op is finished.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_done(work: *const WorkHandle) -> c_int {
    // SAFETY: the caller guarantees it.
    c_int::from(unsafe { &(*work).0 }.is_done())
}

/// Waits for this number of milliseconds, or with -1 for as long as the op may take. Returns 0 if the op succeeded, 1
/// and the error if it failed, and 2 if it is not finished.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_wait(
    work: *const WorkHandle,
    timeout_ms: i64,
    source: *mut u32,
    error: *mut *mut Report,
) -> c_int {
    let patience = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    // SAFETY: the caller guarantees it.
    let outcome = guarded(|| Ok(unsafe { &(*work).0 }.wait(patience)));
    // SAFETY: the caller guarantees it.
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

/// Calls `function(context)` once, on any thread, when the op is finished. Returns 0 if it is already finished; then
/// the function is not called.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_notify(
    work: *const WorkHandle,
    function: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
) -> c_int {
    // SAFETY: the caller guarantees it.
    let (started, tell) = unsafe { (&(*work).0, Callback::new(function, context)) };
    c_int::from(guarded(|| Ok(started.notify(tell))).unwrap_or(false))
}

/// Frees the handle. The op goes on, and its function is not called any more.
///
/// # Safety
/// The requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_free(work: *mut WorkHandle) {
    if !work.is_null() {
        // SAFETY: the caller guarantees it.
        let work = unsafe { Box::from_raw(work) };
        let _ = guarded(|| {
            drop(work);
            Ok(())
        });
    }
}
