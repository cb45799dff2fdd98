//! The guarded device that reduces, as a plugin. Beside the entry it exports what a test in the same process asks it.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};

use c10d_guarded::What;

c10d_privateuse::export_device!("guarded-reduces", c10d_guarded::PROVIDER);

/// How many reductions ran since this was last called.
#[unsafe(no_mangle)]
pub extern "C" fn reductions() -> u64 {
    let runtime = c10d_guarded::reducing();
    let ran = runtime.log().iter().filter(|entry| entry.what == What::Reduce && entry.ran).count();
    runtime.start_log();
    ran as u64
}

/// From now on this call panics on device 1; null: none does any more.
///
/// # Safety
/// The name ends with a nul.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn panics(call: *const c_char) {
    let runtime = c10d_guarded::reducing();
    if call.is_null() {
        return runtime.recover();
    }
    // SAFETY: as promised.
    let call = unsafe { CStr::from_ptr(call) };
    runtime.panic(1, &call.to_string_lossy());
}
