//! The device `guarded-reduces` as a plugin. Besides the entry, the plugin exports functions for a test in the same
//! process.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};

use c10d_guarded::What;

c10d_privateuse::export_device!("guarded-reduces", c10d_guarded::PROVIDER);

/// Returns the number of reductions since the last call of this function.
#[unsafe(no_mangle)]
pub extern "C" fn reductions() -> u64 {
    let runtime = c10d_guarded::reducing();
    let ran = runtime.log().iter().filter(|entry| entry.what == What::Reduce && entry.ran).count();
    runtime.start_log();
    ran as u64
}

/// Makes this call panic on device 1. With null, no call panics any more.
///
/// # Safety
/// `call` is null, or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn panics(call: *const c_char) {
    let runtime = c10d_guarded::reducing();
    if call.is_null() {
        return runtime.recover();
    }
    // SAFETY: the caller guarantees that it ends with a nul.
    let call = unsafe { CStr::from_ptr(call) };
    runtime.panic(1, &call.to_string_lossy());
}
