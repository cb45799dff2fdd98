//! What tests do where there is no device.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fmt::Display;
use std::sync::Arc;

use c10d_core::ErrorKind;
use c10d_wgpu::Wgpu;

/// Set where a driver is installed, so that there is a device.
const EXPECTED: &str = "C10D_WGPU_EXPECTED";

/// Says that a test is skipped, since there is no device.
pub(crate) fn skip(why: impl Display) {
    assert!(std::env::var_os(EXPECTED).is_none(), "a driver is installed, but {why}");
    println!("skipped: {why}");
}

/// The runtime, if there is a device here. One that would not open is a failure.
pub(crate) fn runtime() -> Option<Arc<Wgpu>> {
    match c10d_wgpu::runtime() {
        Ok(runtime) => Some(runtime),
        Err(e) => {
            assert_eq!(*e.kind(), ErrorKind::Unsupported, "{e}");
            skip(e);
            None
        }
    }
}
