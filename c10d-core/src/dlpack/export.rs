//! Buffers as tensors of other libraries.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::NonNull;

use super::{DataType, DlDevice, Flags, ManagedTensor, ManagedTensorVersioned, Tensor, Version};
use crate::buffer::{Buf, BufMut};
use crate::panics::contain;
use crate::{Error, Result};

/// A buffer and its description, in one allocation that the deleter frees.
struct Exported<B, M> {
    managed: M,
    shape: Vec<i64>,
    strides: Vec<i64>,
    buffer: B,
}

/// Exports an owned buffer (a `Vec<T>`, a `Box<[T]>`, a [`DeviceBuffer`](crate::device::DeviceBuffer), ..) as a tensor
/// of this shape, for a capsule called `dltensor_versioned`. The library that imports the tensor calls its deleter, on
/// any thread. If the library does not do that, the buffer is leaked.
///
/// The `data` of a PrivateUse1 buffer is its vendor's handle.
///
/// # Errors
/// `InvalidArgument` if the shape has another number of elements than the buffer. The errors of [`Buf::ready`].
pub fn export<B: BufMut + 'static>(buffer: B, shape: &[usize]) -> Result<NonNull<ManagedTensorVersioned>> {
    versioned(buffer, shape, Flags(0))
}

/// Like [`export`], for a buffer that the importing library must not write, such as an `Arc<[T]>`.
///
/// # Errors
/// The same as for [`export`].
pub fn export_read_only<B: Buf + 'static>(buffer: B, shape: &[usize]) -> Result<NonNull<ManagedTensorVersioned>> {
    versioned(buffer, shape, Flags::READ_ONLY)
}

/// Like [`export`], for a capsule called `dltensor`, which older libraries accept.
///
/// # Errors
/// The same as for [`export`].
pub fn export_legacy<B: BufMut + 'static>(buffer: B, shape: &[usize]) -> Result<NonNull<ManagedTensor>> {
    let make = |tensor| ManagedTensor { tensor, context: std::ptr::null_mut(), deleter: Some(free_legacy::<B>) };
    let exported = lay(buffer, shape, make)?;
    // SAFETY: the allocation was just made, and no other code has its address.
    unsafe {
        let managed = &raw mut (*exported.as_ptr()).managed;
        (*managed).context = exported.as_ptr().cast();
        Ok(NonNull::new_unchecked(managed))
    }
}

fn versioned<B: Buf + 'static>(buffer: B, shape: &[usize], flags: Flags) -> Result<NonNull<ManagedTensorVersioned>> {
    let (version, context) = (Version::OURS, std::ptr::null_mut());
    let make = |tensor| ManagedTensorVersioned { version, context, deleter: Some(free::<B>), flags, tensor };
    let exported = lay(buffer, shape, make)?;
    // SAFETY: the allocation was just made, and no other code has its address.
    unsafe {
        let managed = &raw mut (*exported.as_ptr()).managed;
        (*managed).context = exported.as_ptr().cast();
        Ok(NonNull::new_unchecked(managed))
    }
}

/// Moves the buffer and its description into one allocation, and leaks it.
fn lay<B: Buf, M>(buffer: B, shape: &[usize], make: impl FnOnce(Tensor) -> M) -> Result<NonNull<Exported<B, M>>> {
    let mut buffer = buffer;
    let span = buffer.ready()?;
    let count = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size));
    if count != Some(span.count()) {
        let what = format!("a buffer of {} elements cannot be exported as a tensor of shape {shape:?}", span.count());
        return Err(Error::invalid(what));
    }
    let mut shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
    let mut strides = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
    }
    let address = span.address();
    let tensor = Tensor {
        data: address.base.cast::<c_void>(),
        device: DlDevice::of(span.device()),
        ndim: shape.len() as i32,
        dtype: DataType::of(span.dtype()),
        shape: shape.as_mut_ptr(),
        strides: strides.as_mut_ptr(),
        byte_offset: address.offset,
    };
    // Moving the vectors and the buffer does not move their elements, so the pointers in `tensor` stay valid.
    let exported = Box::new(Exported { managed: make(tensor), shape, strides, buffer });
    Ok(NonNull::from(Box::leak(exported)))
}

/// # Safety
/// The tensor was made by `versioned::<B>`, and is not used any more.
unsafe extern "C" fn free<B>(tensor: *mut ManagedTensorVersioned) {
    // SAFETY: the caller guarantees it.
    unsafe { release::<B, ManagedTensorVersioned>((*tensor).context) };
}

/// # Safety
/// The tensor was made by `export_legacy::<B>`, and is not used any more.
unsafe extern "C" fn free_legacy<B>(tensor: *mut ManagedTensor) {
    // SAFETY: the caller guarantees it.
    unsafe { release::<B, ManagedTensor>((*tensor).context) };
}

/// # Safety
/// The context is a leaked `Box<Exported<B, M>>`. This function is called once for each such box.
unsafe fn release<B, M>(context: *mut c_void) {
    // SAFETY: the caller guarantees it.
    let exported = unsafe { Box::from_raw(context.cast::<Exported<B, M>>()) };
    // A panic must not unwind into another library's code.
    contain("freeing a buffer that was exported through DLPack", || {
        let Exported { buffer, shape, strides, .. } = *exported;
        drop((buffer, shape, strides));
    });
}
