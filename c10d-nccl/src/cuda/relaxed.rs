//! Calls that do not disturb graphs that other threads capture.
#![allow(unsafe_code)]

use c10d_core::Result;
use cudarc::driver::sys;

use super::failure::failed;

/// As long as this value exists, its thread may make calls that CUDA normally forbids while any stream of the process
/// is capturing a graph, such as querying an event or allocating memory. Without this value, such a call on any thread
/// fails, and invalidates the graph.
pub(super) struct Relaxed(sys::CUstreamCaptureMode);

impl Relaxed {
    pub(super) fn begin() -> Result<Relaxed> {
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        exchange(&mut mode).map_err(|e| failed("setting the thread's capture mode", e))?;
        Ok(Relaxed(mode))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        let _ = exchange(&mut self.0);
    }
}

/// Exchanges `mode` with the thread's capture mode.
fn exchange(mode: &mut sys::CUstreamCaptureMode) -> Result<(), cudarc::driver::DriverError> {
    // SAFETY: `mode` is valid for reading and writing.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(mode).result() }
}
