//! Device memory of one stream, for barriers and for ops that PyTorch does with one flat tensor.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Buf, DType, Error, ErrorKind, Memory, Result};

use crate::cuda::CudaApi;
use crate::task::DeviceSpan;

/// Memory that grows as ops need it. Successive ops can share it, since their stream orders them.
pub(crate) struct Scratch {
    cuda: Arc<dyn CudaApi>,
    device: u16,
    /// The last buffer is in use. The others became too small, and their total size is not larger. They remain until
    /// the end, since freeing waits for the whole device, including kernels of other communicators. After a failure
    /// they are leaked, since the device may still use them.
    buffers: Vec<ManuallyDrop<DeviceBuffer>>,
}

impl Scratch {
    pub(crate) fn new(cuda: Arc<dyn CudaApi>, device: u16) -> Scratch {
        Scratch { cuda, device, buffers: Vec::new() }
    }

    /// Memory for `count` elements of `size` bytes.
    pub(crate) fn part(&mut self, count: usize, size: usize) -> Result<DeviceSpan> {
        let bytes = count * size;
        if self.buffers.last().is_none_or(|last| last.count() < bytes) {
            let runtime: Arc<dyn DeviceRuntime> = self.cuda.clone();
            let larger = DeviceBuffer::new(&runtime, self.device, DType::U8, bytes.next_power_of_two())?;
            self.buffers.push(ManuallyDrop::new(larger));
        }
        match self.buffers.last().map(|last| (&**last).span().memory()) {
            Some(Memory::Cuda(at)) => Ok(DeviceSpan { at, count, size }),
            _ => Err(Error::new(ErrorKind::Internal, "CUDA gave memory that is not CUDA's")),
        }
    }

    /// Frees everything. The stream must have finished its work.
    pub(crate) fn close(self) {
        self.buffers.into_iter().for_each(|buffer| drop(ManuallyDrop::into_inner(buffer)));
    }
}
