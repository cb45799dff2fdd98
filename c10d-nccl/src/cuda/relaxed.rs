//! Calls that do not disturb the graphs that other threads record.
#![allow(unsafe_code)]

use c10d_core::Result;
use cudarc::driver::sys;

use super::failure::failed;

/// While this exists, its thread may make calls that are normally unsafe while any stream of the process records a
/// graph, such as querying an event or allocating memory. By default such calls fail on every thread, even on one that
/// has nothing to do with graphs, and break the recording.
pub(super) struct Relaxed(sys::CUstreamCaptureMode);

impl Relaxed {
    pub(super) fn begin() -> Result<Relaxed> {
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        exchange(&mut mode).map_err(|e| failed("leaving other threads' graphs alone", e))?;
        Ok(Relaxed(mode))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        let _ = exchange(&mut self.0);
    }
}

/// Exchanges the thread's mode with this one.
fn exchange(mode: &mut sys::CUstreamCaptureMode) -> Result<(), cudarc::driver::DriverError> {
    // SAFETY: this exchanges one value.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(mode).result() }
}
