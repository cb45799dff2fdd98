//! Device memory of a stream's own, for barriers and for ops that PyTorch's ranks do by way of one flat tensor.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Buf, DType, Error, ErrorKind, Memory, Result};

use crate::cuda::CudaApi;
use crate::task::Part;

/// Memory that grows with the ops that need it. One op after another uses it: they are in order on their stream.
pub(crate) struct Scratch {
    cuda: Arc<dyn CudaApi>,
    device: u16,
    /// The last is in use; the others became too small, and are together no larger. They stay until the end, since freeing
    /// waits for the whole device, other communicators' kernels too. Left behind after a failure, since the device may be at
    /// it still.
    buffers: Vec<ManuallyDrop<DeviceBuffer>>,
}

impl Scratch {
    pub(crate) fn new(cuda: Arc<dyn CudaApi>, device: u16) -> Scratch {
        Scratch { cuda, device, buffers: Vec::new() }
    }

    /// Room for `count` elements of `size` bytes.
    pub(crate) fn part(&mut self, count: usize, size: usize) -> Result<Part> {
        let bytes = count * size;
        if self.buffers.last().is_none_or(|last| last.count() < bytes) {
            let runtime: Arc<dyn DeviceRuntime> = self.cuda.clone();
            let larger = DeviceBuffer::new(&runtime, self.device, DType::U8, bytes.next_power_of_two())?;
            self.buffers.push(ManuallyDrop::new(larger));
        }
        match self.buffers.last().map(|last| (&**last).span().memory()) {
            Some(Memory::Cuda(at)) => Ok(Part { at, count, size }),
            _ => Err(Error::new(ErrorKind::Internal, "CUDA gave memory that is not CUDA's")),
        }
    }

    /// Gives everything back; the stream has passed everything.
    pub(crate) fn close(self) {
        self.buffers.into_iter().for_each(|buffer| drop(ManuallyDrop::into_inner(buffer)));
    }
}
