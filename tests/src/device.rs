//! The device whose memory contains the tensors of a case.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use c10d_core::backend::{Provider, Registry};
use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Buf, BufMut, Device, Error, Memory, Result, Span};

use crate::reference::Tensors;
use crate::tensor::Tensor;

/// The device of a rank's tensors.
pub(crate) struct RankDevice {
    runtime: Arc<dyn DeviceRuntime>,
    index: u16,
    patience: Duration,
}

impl RankDevice {
    /// Opens the device of this rank among the devices with this name.
    pub(crate) fn of(providers: &[&'static Provider], name: &str, rank: u32, patience: Duration) -> Result<RankDevice> {
        let runtime = Registry::collect(providers)?.device(name)?;
        let count = runtime.count()?;
        if count == 0 {
            return Err(Error::unsupported(format!("the machine has no device {name}")));
        }
        let index = (rank % u32::from(count)) as u16;
        Ok(RankDevice { runtime, index, patience })
    }

    pub(crate) fn device(&self) -> Device {
        self.runtime.device(self.index)
    }

    /// Copies a tensor and its guards to the device.
    pub(crate) fn put(&self, tensor: Tensor) -> Result<Far> {
        let mut memory = DeviceBuffer::from_slice(&self.runtime, self.index, tensor.everything(), self.patience)?;
        let whole = memory.span();
        let base = match whole.memory() {
            Memory::Cuda(address) => std::ptr::with_exposed_provenance_mut(address as usize),
            Memory::Opaque { handle, .. } => handle,
            _ => {
                return Err(Error::unsupported(format!(
                    "the buffer is not in device memory, but on {}",
                    whole.device()
                )));
            }
        };
        Ok(Far { tensor, base, memory })
    }

    /// Copies a tensor back.
    pub(crate) fn get(&self, far: Far) -> Result<Tensor> {
        let Far { mut tensor, memory, .. } = far;
        tensor.everything_mut().copy_from_slice(&memory.to_vec::<u8>(self.patience)?);
        Ok(tensor)
    }

    pub(crate) fn put_all(&self, tensors: Tensors) -> Result<Tensors<Far>> {
        let put = |list: Vec<Tensor>| list.into_iter().map(|t| self.put(t)).collect::<Result<Vec<Far>>>();
        Ok(Tensors { inputs: put(tensors.inputs)?, outputs: put(tensors.outputs)? })
    }

    pub(crate) fn get_all(&self, tensors: Tensors<Far>) -> Result<Tensors> {
        let get = |list: Vec<Far>| list.into_iter().map(|t| self.get(t)).collect::<Result<Vec<Tensor>>>();
        Ok(Tensors { inputs: get(tensors.inputs)?, outputs: get(tensors.outputs)? })
    }
}

/// A tensor in device memory, between guards as in host memory.
pub(crate) struct Far {
    tensor: Tensor,
    base: *mut (),
    memory: DeviceBuffer,
}

// SAFETY: the base address belongs to the buffer, which may be used on any thread.
unsafe impl Send for Far {}
// SAFETY: as above.
unsafe impl Sync for Far {}

impl Far {
    /// Returns the span of some of the elements. The span does not borrow the tensor, so the caller must keep the
    /// tensor until the raw call with the span has ended.
    pub(crate) fn part(&self, start: usize, count: usize) -> Span {
        let device = (&mut &self.memory).span().device();
        Span::new(self.base, self.tensor.offset(start), count as u64, self.tensor.dtype(), device)
    }

    fn all(&self) -> Span {
        self.part(0, self.tensor.count())
    }
}

// SAFETY: the value is the only owner of the allocation, which does not move and remains until the value is dropped.
unsafe impl Buf for Far {
    fn span(&mut self) -> Span {
        self.all()
    }
}
// SAFETY: as above.
unsafe impl BufMut for Far {}
// SAFETY: the memory is borrowed while the reference exists, and nothing writes to it in that time.
unsafe impl Buf for &Far {
    fn span(&mut self) -> Span {
        self.all()
    }
}
// SAFETY: the memory is borrowed exclusively while the reference exists.
unsafe impl Buf for &mut Far {
    fn span(&mut self) -> Span {
        self.all()
    }
}
// SAFETY: as above.
unsafe impl BufMut for &mut Far {}
