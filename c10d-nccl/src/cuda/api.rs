//! What is asked of CUDA, as a trait, so that tests can put something else in its place.
#![allow(unsafe_code)]

use c10d_core::Result;
use c10d_core::device::{DeviceRuntime, Stream};

use crate::kernels::Kernel;

/// CUDA: what every device runtime has, and what NCCL's backend needs besides.
///
/// # Safety
/// As [`DeviceRuntime`].
pub(crate) unsafe trait CudaApi: DeviceRuntime {
    /// Makes the device the calling thread's, as NCCL wants it.
    fn enter(&self, index: u16) -> Result;

    /// The same for a thread of our own: its calls do not break the graphs that the caller's threads record.
    fn enter_own(&self, index: u16) -> Result {
        self.enter(index)
    }

    /// On which device this address lies, if it is a device's.
    fn device_of(&self, address: u64) -> Result<Option<u16>>;

    /// Whether this crate's kernels can be run on every device here; says why not.
    fn has_kernels(&self) -> Result;

    /// Loads what sparse calls run, on a device with kernels: loading waits for the whole device, and so for collectives that
    /// wait for a peer.
    fn load(&self, _index: u16) -> Result {
        Ok(())
    }

    /// Gives a kernel to the stream, which is run by `threads` threads, or by fewer that take turns.
    ///
    /// # Safety
    /// As [`DeviceRuntime::copy`], for all memory that the arguments name. They are what the kernel takes.
    unsafe fn launch(&self, index: u16, stream: Stream, kernel: &Kernel, threads: usize, arguments: &[u64]) -> Result;
}
