//! Calls that do not break the graphs which other threads record.
#![allow(unsafe_code)]

use c10d_core::Result;
use cudarc::driver::sys;

use super::failure::failed;

/// While this lives, its thread may make calls that are unsafe while any stream of the process records a graph, such as
/// asking for an event or allocating memory. Else they fail then, and break the recording: it is the default of every
/// thread, also one that has to do with no graph.
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

/// Gives the thread this mode; what it had before is left in its place.
fn exchange(mode: &mut sys::CUstreamCaptureMode) -> Result<(), cudarc::driver::DriverError> {
    // SAFETY: swaps one value.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(mode).result() }
}
