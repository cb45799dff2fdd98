//! The program's own buffers, as arguments of collectives.
#![allow(unsafe_code)]

use std::fmt;

use c10d_core::device::DeviceRuntime;
use c10d_core::{Buf, BufMut, DType, Device, Error, Result, Span};
use wgpu::BufferUsages;

use crate::Wgpu;
use crate::memory::Memory;

/// A whole `wgpu::Buffer` of the program, as elements of one type.
///
/// A collective reads the buffer after the work that was submitted to the device's queue before the call. Work that is
/// submitted after the collective has ended sees the result.
///
/// ```no_run
/// # use c10d_core::{DType, ProcessGroup, ReduceOp, Result};
/// # fn f(pg: ProcessGroup, device: wgpu::Device, queue: wgpu::Queue, gradients: wgpu::Buffer) -> Result {
/// // Before the group was made, the program called `c10d_wgpu::adopt(vec![(device, queue)])?`.
/// let gpu = c10d_wgpu::runtime()?;
/// let mut gradients = c10d_wgpu::Tensor::new(&gpu, 0, gradients, DType::F32)?;
/// pg.all_reduce(&mut gradients, ReduceOp::Sum)?;
/// # Ok(())
/// # }
/// ```
pub struct Tensor {
    base: *mut (),
    buffer: wgpu::Buffer,
    device: Device,
    dtype: DType,
}

// SAFETY: the handle points to a reference-counted object that any thread may use.
unsafe impl Send for Tensor {}
// SAFETY: the same as for `Send`; a shared tensor is only read.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// Makes a tensor from a whole buffer, which must belong to the runtime's device `index`.
    ///
    /// # Errors
    /// `InvalidArgument`: the usages of the buffer do not include `STORAGE`, `COPY_SRC` and `COPY_DST`, or its size is
    /// not a multiple of the element size and of 4 bytes.
    pub fn new(runtime: &Wgpu, index: u16, buffer: wgpu::Buffer, dtype: DType) -> Result<Tensor> {
        let needed = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let missing = needed - buffer.usage();
        if !missing.is_empty() {
            return Err(Error::invalid(format!("a buffer in collectives also needs the usages {missing:?}")));
        }
        let size = buffer.size();
        if !size.is_multiple_of(4) || !size.is_multiple_of(dtype.size() as u64) {
            let what = format!("a buffer of {size} bytes is not a whole number of {dtype} and of 4-byte words");
            return Err(Error::invalid(what));
        }
        let base = Memory { buffer: buffer.clone() }.into_handle();
        Ok(Tensor { base, buffer, device: runtime.device(index), dtype })
    }

    /// Returns the buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    fn all(&self) -> Span {
        let count = self.buffer.size() / self.dtype.size() as u64;
        Span::new(self.base, 0, count, self.dtype, self.device)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the handle comes from `into_handle`, and this tensor is its only owner.
        unsafe { Memory::release(self.base) }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} bytes of {} on {})", self.buffer.size(), self.dtype, self.device)
    }
}

// SAFETY: the memory exists until the value is dropped, and does not move when the value moves. A clone of the buffer
// can access the memory only through the queue, which orders the accesses.
unsafe impl Buf for Tensor {
    fn span(&mut self) -> Span {
        self.all()
    }
}
// SAFETY: the same as for `Buf`.
unsafe impl BufMut for Tensor {}
// SAFETY: the same as for `Tensor`, which is borrowed for the op.
unsafe impl Buf for &Tensor {
    fn span(&mut self) -> Span {
        self.all()
    }
}
// SAFETY: the same as for `Tensor`, which is borrowed exclusively for the op.
unsafe impl Buf for &mut Tensor {
    fn span(&mut self) -> Span {
        self.all()
    }
}
// SAFETY: the same as for `Buf`.
unsafe impl BufMut for &mut Tensor {}
