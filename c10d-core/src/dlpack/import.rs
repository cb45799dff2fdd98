//! Tensors of other libraries as buffers.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::{Flags, ManagedTensor, ManagedTensorVersioned, Tensor, Version};
use crate::buffer::{Buf, BufMut, Span};
use crate::types::{DType, Device};
use crate::{Error, Result};

/// A tensor of another library, for reading. It is returned to that library on drop.
#[derive(Debug)]
pub struct Imported {
    span: Span,
    read_only: bool,
    _owner: Owner,
}

/// A tensor of another library, for reading and writing. It is returned to that library on drop.
#[derive(Debug)]
pub struct ImportedMut(Imported);

/// A tensor whose deleter is called once, on drop.
#[derive(Debug)]
enum Owner {
    Versioned(NonNull<ManagedTensorVersioned>),
    Legacy(NonNull<ManagedTensor>),
}

// SAFETY: the caller of `Imported::versioned` or `legacy` guarantees that the deleter may be called on any thread.
unsafe impl Send for Owner {}
// SAFETY: a shared reference to an owner gives no access to the tensor.
unsafe impl Sync for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: this value owns the tensor, and only this `drop` calls its deleter.
        unsafe {
            match self {
                Owner::Versioned(tensor) => (*tensor.as_ptr()).deleter.iter().for_each(|f| f(tensor.as_ptr())),
                Owner::Legacy(tensor) => (*tensor.as_ptr()).deleter.iter().for_each(|f| f(tensor.as_ptr())),
            }
        }
    }
}

impl Imported {
    /// Takes over a tensor from a capsule called `dltensor_versioned`. If there is an error, this function returns the
    /// tensor to its library.
    ///
    /// # Errors
    /// `InvalidArgument` if the tensor is not contiguous, not aligned or not valid, or if its type, its device or its
    /// DLPack version is not supported.
    ///
    /// # Safety
    /// The struct conforms to DLPack. No other code calls its deleter, which may be called on any thread. No other code
    /// writes to the tensor's memory while an op reads it, or uses the memory while an op writes it. All earlier work
    /// of the device on the memory is complete, or is on the op's stream.
    pub unsafe fn versioned(tensor: NonNull<ManagedTensorVersioned>) -> Result<Imported> {
        let owner = Owner::Versioned(tensor);
        // SAFETY: the caller guarantees that the struct is valid. Its `version` is at the same offset in all versions.
        let version = unsafe { tensor.as_ref() }.version;
        if version.major != Version::OURS.major {
            let what = format!(
                "the tensor has DLPack version {}.{}; only version 1 is supported",
                version.major, version.minor
            );
            return Err(Error::invalid(what));
        }
        // SAFETY: as above.
        let ManagedTensorVersioned { flags, tensor, .. } = unsafe { tensor.as_ref() };
        // SAFETY: as above.
        unsafe { Self::of(tensor, *flags, owner) }
    }

    /// The same as [`versioned`](Imported::versioned), for a capsule called `dltensor`, which older libraries make.
    ///
    /// # Errors
    /// The same as for [`versioned`](Imported::versioned).
    ///
    /// # Safety
    /// The same as for [`versioned`](Imported::versioned). Such a tensor does not say whether it is read-only. If the
    /// tensor is used as an output, the caller guarantees that the tensor is not read-only.
    pub unsafe fn legacy(tensor: NonNull<ManagedTensor>) -> Result<Imported> {
        // SAFETY: as above.
        unsafe { Self::of(&tensor.as_ref().tensor, Flags(0), Owner::Legacy(tensor)) }
    }

    /// # Safety
    /// The same as for `versioned`.
    unsafe fn of(tensor: &Tensor, flags: Flags, owner: Owner) -> Result<Imported> {
        let (dtype, device) = (tensor.dtype.dtype()?, tensor.device.device()?);
        // SAFETY: as above.
        let count = unsafe { count(tensor, dtype) }?;
        let mut data = tensor.data.cast::<()>();
        let mut offset = tensor.byte_offset;
        if count == 0 {
            // The pointer of a tensor without elements may be null or not aligned, so the span gets another address.
            (data, offset) = (std::ptr::without_provenance_mut(dtype.align()), 0);
        } else if data.is_null() {
            return Err(Error::invalid("a DLPack tensor with elements has no data"));
        }
        let address = (data as u64).wrapping_add(offset);
        if device == Device::CPU && !address.is_multiple_of(dtype.align() as u64) {
            return Err(Error::invalid(format!(
                "a DLPack tensor of {dtype} is not aligned to {} bytes",
                dtype.align()
            )));
        }
        let span = Span::new(data, offset, count as u64, dtype, device);
        Ok(Imported { span, read_only: flags.is_read_only(), _owner: owner })
    }

    /// Sets the vendor's slot of a tensor on PrivateUse1. Without this call the tensor has the default slot.
    pub fn of_vendor(mut self, vendor: u8) -> Imported {
        self.span = self.span.of_vendor(vendor);
        self
    }

    /// Makes the tensor writable.
    ///
    /// # Errors
    /// `InvalidArgument` if the tensor's library says that the tensor is read-only.
    pub fn writable(self) -> Result<ImportedMut> {
        if self.read_only {
            return Err(Error::invalid("a DLPack tensor is read-only, so it cannot be an output; copy it first"));
        }
        Ok(ImportedMut(self))
    }

    /// Returns the number of elements.
    pub fn count(&self) -> usize {
        self.span.count()
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.span.dtype()
    }

    /// Returns the device that has the tensor.
    pub fn device(&self) -> Device {
        self.span.device()
    }
}

impl ImportedMut {
    /// Makes the tensor read-only.
    pub fn read(self) -> Imported {
        self.0
    }
}

/// Returns the number of elements of a contiguous tensor.
///
/// # Safety
/// `shape` and `strides` are null or have `ndim` elements.
unsafe fn count(tensor: &Tensor, dtype: DType) -> Result<usize> {
    let wrong = |what: String| Error::invalid(format!("a DLPack tensor {what}"));
    let ndim = usize::try_from(tensor.ndim).map_err(|_| wrong(format!("has {} dimensions", tensor.ndim)))?;
    if ndim > 0 && tensor.shape.is_null() {
        return Err(wrong("has no shape".to_owned()));
    }
    let list = |at: *mut i64| match at.is_null() || ndim == 0 {
        true => &[][..],
        // SAFETY: the caller guarantees it.
        false => unsafe { std::slice::from_raw_parts(at, ndim) },
    };
    let (shape, strides) = (list(tensor.shape), list(tensor.strides));
    let sizes = shape.iter().map(|size| usize::try_from(*size).ok());
    let count = sizes.clone().try_fold(1usize, |all, size| all.checked_mul(size?));
    let fits = |count: &usize| count.checked_mul(dtype.size()).is_some_and(|bytes| isize::try_from(bytes).is_ok());
    // If one size is 0, the tensor has no elements, even if the product of the other sizes overflows.
    let count = if shape.contains(&0) && shape.iter().all(|s| *s >= 0) { Some(0) } else { count.filter(fits) };
    let count = count.ok_or_else(|| wrong(format!("has the invalid shape {shape:?}")))?;
    let mut step = 1i64;
    for (size, stride) in shape.iter().zip(strides).rev() {
        // The stride of a dimension of size 1 is never used.
        if count > 0 && *size > 1 && *stride != step {
            let what = format!("of shape {shape:?} has strides {strides:?}; make it contiguous first");
            return Err(wrong(what));
        }
        step = step.saturating_mul((*size).max(1));
    }
    Ok(count)
}

// SAFETY: the memory stays allocated until the deleter is called, which is when the value is dropped. The caller of
// `versioned` or `legacy` guarantees that no other code interferes.
unsafe impl Buf for Imported {
    fn span(&mut self) -> Span {
        self.span
    }
}
// SAFETY: as above; the value is borrowed.
unsafe impl Buf for &Imported {
    fn span(&mut self) -> Span {
        self.span
    }
}
// SAFETY: as above.
unsafe impl Buf for ImportedMut {
    fn span(&mut self) -> Span {
        self.0.span
    }
}
// SAFETY: as above; the tensor is not read-only.
unsafe impl BufMut for ImportedMut {}
// SAFETY: as above; the value is borrowed exclusively.
unsafe impl Buf for &mut ImportedMut {
    fn span(&mut self) -> Span {
        self.0.span
    }
}
// SAFETY: as above.
unsafe impl BufMut for &mut ImportedMut {}
