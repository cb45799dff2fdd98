//! The functions of CUDA that this crate uses, as a trait that tests can implement.
#![allow(unsafe_code)]

use c10d_core::Result;
use c10d_core::device::{DeviceRuntime, Stream};

use crate::kernels::Kernel;

/// CUDA: the functions of every device runtime, and those that the NCCL backend also needs.
///
/// # Safety
/// The same as for [`DeviceRuntime`].
pub(crate) unsafe trait CudaApi: DeviceRuntime {
    /// Makes this the calling thread's current device, as NCCL requires.
    fn enter(&self, index: u16) -> Result;

    /// The same for a thread of this crate, whose calls do not disturb the graphs that the caller's threads record.
    fn enter_own(&self, index: u16) -> Result {
        self.enter(index)
    }

    /// The device whose memory contains this address, if any.
    fn device_of(&self, address: u64) -> Result<Option<u16>>;

    /// Checks whether this crate's kernels can run on every device of the process. The error has the reason.
    fn has_kernels(&self) -> Result;

    /// Loads the kernels of sparse calls. Loading waits for the whole device, and so for collectives that wait for a
    /// peer.
    fn load(&self, _index: u16) -> Result {
        Ok(())
    }

    /// Launches a kernel on the stream for `threads` threads. With fewer real threads, each does several in turn.
    ///
    /// # Safety
    /// The same as for [`DeviceRuntime::copy`], for all memory that the arguments refer to. The arguments must fit the
    /// kernel.
    unsafe fn launch(&self, index: u16, stream: Stream, kernel: &Kernel, threads: usize, arguments: &[u64]) -> Result;
}
