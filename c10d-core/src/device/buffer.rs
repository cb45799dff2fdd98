//! A buffer in a device's memory.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{DevicePtr, DeviceRuntime};
use crate::buffer::{Buf, BufMut, Span};
use crate::process::Process;
use crate::store::deadline_after;
use crate::types::{DType, Element};
use crate::{Error, Result};

/// Elements in a device's memory, freed on drop. Contents are unspecified until they are written.
///
/// All methods call the device runtime on the caller's thread. `timeout` limits how long a method waits for the device.
/// If a function of the driver does not return, the method does not return. A collective returns even then, if the call
/// owns the buffer or the runtime can retain memory ([`DeviceRuntime::retain`]).
///
/// The methods return `InvalidArgument` if a type or length does not match the buffer, `Timeout` if the device is not
/// done in time, and otherwise the errors of the runtime.
///
/// ```no_run
/// # use std::{sync::Arc, time::Duration};
/// # use c10d_core::{ProcessGroup, ReduceOp, Result, device::{DeviceBuffer, DeviceRuntime}};
/// # fn f(pg: ProcessGroup, acme: Arc<dyn DeviceRuntime>) -> Result {
/// let mut x = DeviceBuffer::from_slice(&acme, 0, &[1f32; 1024], Duration::from_secs(1))?;
/// pg.all_reduce(&mut x, ReduceOp::Sum)?;
/// assert_eq!(x.to_vec::<f32>(Duration::from_secs(1))?.len(), 1024);
/// # Ok(()) }
/// ```
pub struct DeviceBuffer {
    runtime: Arc<dyn DeviceRuntime>,
    index: u16,
    /// The address or handle of the memory; null if the buffer has no bytes.
    base: *mut (),
    count: usize,
    dtype: DType,
    /// The process that allocated the memory.
    owner: Process,
}

// SAFETY: the runtime may be called from any thread, and the buffer is the only owner of its memory.
unsafe impl Send for DeviceBuffer {}
// SAFETY: shared references only allow reading the memory.
unsafe impl Sync for DeviceBuffer {}

impl DeviceBuffer {
    /// Allocates `count` elements on device `index`.
    ///
    /// # Errors
    /// `InvalidArgument` if no device can have that many bytes. Otherwise the errors of [`DeviceRuntime::allocate`].
    pub fn new(runtime: &Arc<dyn DeviceRuntime>, index: u16, dtype: DType, count: usize) -> Result<DeviceBuffer> {
        let bytes = count.checked_mul(dtype.size()).filter(|b| isize::try_from(*b).is_ok());
        let bytes = bytes.ok_or_else(|| {
            Error::invalid(format!("{count} elements of {dtype} are more bytes than any device can have"))
        })?;
        let base = if bytes == 0 { std::ptr::null_mut() } else { runtime.allocate(index, bytes)? };
        Ok(DeviceBuffer { runtime: runtime.clone(), index, base, count, dtype, owner: Process::current() })
    }

    /// Copies host memory to new memory on device `index`.
    pub fn from_slice<T: Element>(
        runtime: &Arc<dyn DeviceRuntime>,
        index: u16,
        data: &[T],
        timeout: Duration,
    ) -> Result<DeviceBuffer> {
        let mut buffer = DeviceBuffer::new(runtime, index, T::DTYPE, data.len())?;
        buffer.write(data, timeout)?;
        Ok(buffer)
    }

    /// Copies `data` into the buffer. Type and length must match those of the buffer.
    pub fn write<T: Element>(&mut self, data: &[T], timeout: Duration) -> Result {
        self.fits::<T>(data.len())?;
        // SAFETY: elements are plain data without padding.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
        self.write_bytes(bytes, timeout)
    }

    /// Copies bytes into the buffer. `data` must have as many bytes as the buffer; the element type does not matter.
    pub fn write_bytes(&mut self, data: &[u8], timeout: Duration) -> Result {
        if data.len() != self.bytes() {
            return Err(Error::invalid(format!("the device buffer has {} bytes, not {}", self.bytes(), data.len())));
        }
        if data.is_empty() {
            return Ok(());
        }
        // If the wait fails, the device may still read the host memory. So the device reads from a copy that can be
        // leaked.
        let staged = data.to_vec().into_boxed_slice();
        // SAFETY: the device memory belongs to this buffer and has as many bytes as the copy. The host memory is not
        // freed before the copy is complete. If it is not known whether the copy is complete, the host memory is
        // leaked.
        let done = unsafe {
            self.runtime
                .copy_in(self.index, 0, self.address(), staged.as_ptr(), staged.len())
                .and_then(|()| self.runtime.synchronize(self.index, 0, deadline_after(timeout)))
        };
        if done.is_err() {
            std::mem::forget(staged);
        }
        done
    }

    /// Copies the contents to host memory. `T` must be the buffer's element type.
    pub fn to_vec<T: Element>(&self, timeout: Duration) -> Result<Vec<T>> {
        self.fits::<T>(self.count)?;
        Ok(typed(self.to_bytes(timeout)?, self.count))
    }

    /// Copies the contents to host memory, as bytes.
    pub fn to_bytes(&self, timeout: Duration) -> Result<Vec<u8>> {
        let mut data = vec![0u8; self.bytes()].into_boxed_slice();
        if data.is_empty() {
            return Ok(Vec::new());
        }
        // SAFETY: the same as in `write_bytes`; the copy writes to `data`, which is leaked if the device may still
        // write to it.
        let done = unsafe {
            self.runtime
                .copy_out(self.index, 0, data.as_mut_ptr(), self.address(), data.len())
                .and_then(|()| self.runtime.synchronize(self.index, 0, deadline_after(timeout)))
        };
        match done {
            Ok(()) => Ok(data.into_vec()),
            Err(e) => {
                std::mem::forget(data);
                Err(e)
            }
        }
    }

    /// Returns the number of elements.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    fn bytes(&self) -> usize {
        self.count * self.dtype.size()
    }

    fn address(&self) -> DevicePtr {
        DevicePtr { base: self.base, offset: 0 }
    }

    fn fits<T: Element>(&self, count: usize) -> Result {
        if T::DTYPE == self.dtype && count == self.count {
            return Ok(());
        }
        let (have, want) = (format!("{} elements of {}", self.count, self.dtype), T::DTYPE);
        Err(Error::invalid(format!("the device buffer has {have}, not {count} of {want}")))
    }

    fn span_of_all(&self) -> Span {
        Span::new(self.base, 0, self.count as u64, self.dtype, self.runtime.device(self.index))
    }
}

/// Converts bytes to `count` elements. Every byte of a `bool` other than 0 becomes `true`.
pub(crate) fn typed<T: Element>(mut bytes: Vec<u8>, count: usize) -> Vec<T> {
    if T::DTYPE == DType::Bool {
        bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    assert_eq!(bytes.len(), count * size_of::<T>());
    let mut data = Vec::<T>::with_capacity(count);
    // SAFETY: the vector has room for `bytes.len()` bytes, as asserted. All bytes are valid elements: the only type
    // with invalid bytes is `bool`, whose bytes were made 0 or 1 above.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.as_mut_ptr().cast::<u8>(), bytes.len());
        data.set_len(count);
    }
    data
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // In a forked child the handle is only a copy; the parent frees the memory.
        if !self.base.is_null() && self.owner.is_current() {
            // SAFETY: `base` was returned by `allocate`, and this buffer is its only owner.
            unsafe { self.runtime.free(self.index, self.base) };
        }
    }
}

impl fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBuffer({} x {} on {})", self.count, self.dtype, self.runtime.device(self.index))
    }
}

// SAFETY: the memory stays allocated at the same address until the value is dropped, even if the value is moved. The
// value is its only owner.
unsafe impl Buf for DeviceBuffer {
    fn span(&mut self) -> Span {
        self.span_of_all()
    }
}
// SAFETY: as above.
unsafe impl BufMut for DeviceBuffer {}
// SAFETY: the buffer is borrowed for the op, and a shared buffer is not written.
unsafe impl Buf for &DeviceBuffer {
    fn span(&mut self) -> Span {
        self.span_of_all()
    }
}
// SAFETY: the buffer is borrowed exclusively for the op.
unsafe impl Buf for &mut DeviceBuffer {
    fn span(&mut self) -> Span {
        self.span_of_all()
    }
}
// SAFETY: as above.
unsafe impl BufMut for &mut DeviceBuffer {}
