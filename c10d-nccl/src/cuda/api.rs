//! The functions of CUDA that this crate uses, as a trait that tests can implement.
#![allow(unsafe_code)]

use c10d_core::Result;
use c10d_core::device::{DeviceRuntime, Stream};

use crate::kernels::Kernel;

/// CUDA: the functions of a device runtime, and others that the NCCL backend needs.
///
/// # Safety
/// The same as for [`DeviceRuntime`].
pub(crate) unsafe trait CudaApi: DeviceRuntime {
    /// Makes this device the current one of the calling thread, as NCCL requires.
    fn enter(&self, index: u16) -> Result;

    /// The same as `enter`, for threads of this crate. The driver's implementation also sets the thread's capture mode,
    /// so that the thread's calls do not disturb graphs that other threads capture.
    fn enter_own(&self, index: u16) -> Result {
        self.enter(index)
    }

    /// Returns the device whose memory contains this address, or `None` if there is none.
    fn device_of(&self, address: u64) -> Result<Option<u16>>;

    /// Checks whether this crate's CUDA kernels can run on all devices of the process. If not, the error has the
    /// reason.
    fn has_kernels(&self) -> Result;

    /// Loads the CUDA kernels of sparse calls. Loading may wait for the whole device, and so for collectives that wait
    /// for a peer. So the engine calls this before its first collective.
    fn load(&self, _index: u16) -> Result {
        Ok(())
    }

    /// Launches a CUDA kernel on the stream with `threads` logical threads. If there are fewer real threads, each runs
    /// several logical threads.
    ///
    /// # Safety
    /// The arguments fit the kernel. The memory to which they refer meets the requirements of [`DeviceRuntime::copy`].
    unsafe fn launch(&self, index: u16, stream: Stream, kernel: &Kernel, threads: usize, arguments: &[u64]) -> Result;
}
