//! Holding device memory that its owner may give up meanwhile.
#![allow(unsafe_code)]

use super::CudaApi;

/// Keeps the allocation that this address lies in; `false`: it is not this runtime's.
///
/// The address is that of a job that is not completed, so its memory is not freed yet.
pub(crate) fn retain(cuda: &dyn CudaApi, device: u16, address: u64) -> bool {
    // SAFETY: memory of a job in flight stays until the job is completed.
    unsafe { cuda.retain(device, address as *mut ()) }
}

/// Undoes one `retain` that said `true`.
pub(crate) fn release(cuda: &dyn CudaApi, device: u16, address: u64) {
    // SAFETY: one for each.
    unsafe { cuda.release(device, address as *mut ()) };
}
