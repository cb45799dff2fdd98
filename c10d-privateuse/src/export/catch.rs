//! Catches panics.
#![allow(unsafe_code)]

use c10d_core::{Error, ErrorKind, Result, panics};

use crate::abi::{Why, codes};

/// Calls `f`. Returns its value, or an error with the message of its panic.
pub(super) fn caught<T>(f: impl FnOnce() -> T) -> Result<T> {
    panics::caught(f).map_err(|words| Error::new(ErrorKind::Internal, format!("the plugin panicked: {words}")))
}

/// Calls `f`. Returns a status, and writes the reason of an error or panic to `why`.
///
/// # Safety
/// `why` is null or valid.
pub(super) unsafe fn status(why: *mut Why, f: impl FnOnce() -> Result) -> i32 {
    match caught(f).flatten() {
        Ok(()) => codes::OK,
        Err(error) => {
            // The returned status already says the kind of the error.
            let report = error.report();
            let text = if report.what.is_empty() { error.to_string() } else { report.what.clone() };
            // SAFETY: the caller guarantees it.
            unsafe { Why::say(why, &text) };
            codes::status(&error)
        }
    }
}
