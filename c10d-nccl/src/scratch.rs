//! Device memory for barriers, and for ops that PyTorch runs on one flat tensor: in the dialect `TorchLegacy`, a rank
//! makes the same calls of NCCL as PyTorch's ranks.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Buf, DType, Error, ErrorKind, Memory, Result};

use crate::cuda::CudaApi;
use crate::task::DeviceSpan;

/// Memory that grows as ops need it. The ops use it one after another.
pub(crate) struct Scratch {
    cuda: Arc<dyn CudaApi>,
    device: u16,
    /// The last buffer is the one in use. The others were too small. They are kept until the end, since freeing waits
    /// for the whole device. After a failure all buffers are leaked, since the device may still use them.
    buffers: Vec<ManuallyDrop<DeviceBuffer>>,
}

impl Scratch {
    pub(crate) fn new(cuda: Arc<dyn CudaApi>, device: u16) -> Scratch {
        Scratch { cuda, device, buffers: Vec::new() }
    }

    /// Returns memory for `count` elements of `size` bytes.
    pub(crate) fn part(&mut self, count: usize, size: usize) -> Result<DeviceSpan> {
        let bytes = count * size;
        if self.buffers.last().is_none_or(|last| last.count() < bytes) {
            let runtime: Arc<dyn DeviceRuntime> = self.cuda.clone();
            let larger = DeviceBuffer::new(&runtime, self.device, DType::U8, bytes.next_power_of_two())?;
            self.buffers.push(ManuallyDrop::new(larger));
        }
        match self.buffers.last().map(|last| (&**last).span().memory()) {
            Some(Memory::Cuda(at)) => Ok(DeviceSpan { at, count, size }),
            _ => Err(Error::new(ErrorKind::Internal, "the CUDA runtime returned memory that is not CUDA memory")),
        }
    }

    /// Frees all buffers. The stream must have finished its work.
    pub(crate) fn close(self) {
        self.buffers.into_iter().for_each(|buffer| drop(ManuallyDrop::into_inner(buffer)));
    }
}
