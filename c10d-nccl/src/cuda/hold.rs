//! Keeps device memory allocated as long as the device may use it, even if its owner frees it earlier.
#![allow(unsafe_code)]

use super::CudaApi;

/// Holds the allocation that contains this address. Returns `false` if the allocation does not belong to this runtime.
///
/// The address must belong to a job that is not completed, so that its memory is not freed yet.
pub(crate) fn retain(cuda: &dyn CudaApi, device: u16, address: u64) -> bool {
    // SAFETY: the memory of a job exists until the job is completed.
    unsafe { cuda.retain(device, address as *mut ()) }
}

/// Ends the effect of one `retain` that returned `true`.
pub(crate) fn release(cuda: &dyn CudaApi, device: u16, address: u64) {
    // SAFETY: there is one `release` for each successful `retain`.
    unsafe { cuda.release(device, address as *mut ()) };
}
