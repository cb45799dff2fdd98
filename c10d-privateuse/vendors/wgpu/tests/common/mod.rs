//! Skips tests on machines without a device.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fmt::Display;
use std::sync::Arc;

use c10d_core::ErrorKind;
use c10d_wgpu::Wgpu;

/// This variable is set on machines on which a driver is installed.
const EXPECTED: &str = "C10D_WGPU_EXPECTED";

/// Prints that a test is skipped for lack of a device. Fails if the machine must have a device.
pub(crate) fn skip(why: impl Display) {
    assert!(std::env::var_os(EXPECTED).is_none(), "a driver is installed, but {why}");
    println!("skipped: {why}");
}

/// Returns the runtime, or `None` if there is no device. A device that cannot be opened fails the test.
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
