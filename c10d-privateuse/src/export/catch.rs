//! Panics stop here.
#![allow(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use c10d_core::{Error, ErrorKind, Result};

use crate::abi::{Why, codes};

/// What a panic said.
pub(super) fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// The value, or what the panic said.
pub(super) fn caught<T>(f: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f))
        .map_err(|p| Error::new(ErrorKind::Internal, format!("the plugin panicked: {}", words(&*p))))
}

/// A status, with the reason of a failure or panic in `why`.
///
/// # Safety
/// `why` is null or valid.
pub(super) unsafe fn status(why: *mut Why, f: impl FnOnce() -> Result) -> i32 {
    match caught(f).flatten() {
        Ok(()) => codes::OK,
        Err(error) => {
            // What the kind says already need not be repeated.
            let report = error.report();
            let text = if report.what.is_empty() { error.to_string() } else { report.what.clone() };
            // SAFETY: as promised.
            unsafe { Why::say(why, &text) };
            codes::status(&error)
        }
    }
}
