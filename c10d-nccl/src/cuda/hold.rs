//! Holding device memory that its owner may free meanwhile.
#![allow(unsafe_code)]

use super::CudaApi;

/// Keeps the allocation that contains this address. `false` means that it does not belong to this runtime.
///
/// The address belongs to a job that is not completed, so its memory is not freed yet.
pub(crate) fn retain(cuda: &dyn CudaApi, device: u16, address: u64) -> bool {
    // SAFETY: memory of an unfinished job remains until the job is completed.
    unsafe { cuda.retain(device, address as *mut ()) }
}

/// Undoes one `retain` that returned `true`.
pub(crate) fn release(cuda: &dyn CudaApi, device: u16, address: u64) {
    // SAFETY: there is one `release` for each `retain`.
    unsafe { cuda.release(device, address as *mut ()) };
}
