//! Spans: where the elements of one tensor are.
#![allow(unsafe_code)]

use smallvec::SmallVec;

use super::DevicePtr;
use crate::types::{DType, Device, DeviceKind, Element, Identity};

/// The elements of one contiguous tensor: base (host address or opaque device handle), byte offset, count, type,
/// device.
///
/// A span does not borrow the memory: the code that makes the span guarantees that the memory is valid (see
/// [`Buffers`](super::Buffers)). For memory of a device, [`Span::host_ptr`] returns `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Span {
    data: *mut (),
    offset: u64,
    count: u64,
    device: Device,
    dtype: DType,
    /// The code of the elements' [`Identity`], or 0 if the elements are of type `dtype`. If it is not 0, `dtype` is
    /// `u8`, and `count` is in bytes.
    identity: u16,
}

const _: () = assert!(size_of::<Span>() == 32);

// SAFETY: a span is an address and some numbers. Code that uses the memory at the address needs its own `unsafe`.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

/// The inputs or the outputs of an op. A single span needs no allocation.
pub type Spans = SmallVec<[Span; 1]>;

/// Where a span's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Memory {
    /// A host address.
    Host(*mut u8),
    /// A CUDA device address.
    Cuda(u64),
    /// A vendor's own object and a byte offset into it. The object is valid while the buffer exists. The vendor must
    /// compare `vendor` with its own slot before it casts the handle.
    Opaque {
        /// The vendor's slot: the number that `device::vendor` gives to the vendor's name.
        vendor: u8,
        /// The vendor's object.
        handle: *mut (),
        /// The offset in bytes from the start of the object.
        offset: u64,
    },
}

impl Span {
    /// Makes a span of `count` elements of host memory.
    #[inline]
    pub fn host<T: Element>(data: *mut T, count: usize) -> Span {
        Span { data: data.cast(), offset: 0, count: count as u64, device: Device::CPU, dtype: T::DTYPE, identity: 0 }
    }

    /// Makes a span of `count` elements of type `dtype` on `device`, `offset` bytes after `base`. Depending on the
    /// device, the base is a host address, a CUDA address or a vendor's handle.
    pub fn new(base: *mut (), offset: u64, count: u64, dtype: DType, device: Device) -> Span {
        Span { data: base, offset, count, device, dtype, identity: 0 }
    }

    /// Returns a span of the same bytes whose elements have a type that is not a [`DType`]; see [`Identity`]. The span
    /// must have the type `u8`, which is not checked.
    pub fn identified(self, identity: Identity) -> Span {
        Span { identity: Identity::code(Some(identity)), ..self }
    }

    /// Returns the identity of the elements, if their type is not a [`DType`].
    #[inline]
    pub fn identity(&self) -> Option<Identity> {
        Identity::from_code(self.identity)
    }

    /// Returns where the memory is.
    #[inline]
    pub fn memory(&self) -> Memory {
        match self.device.kind() {
            DeviceKind::Cpu => Memory::Host(self.data.cast::<u8>().wrapping_add(self.offset as usize)),
            DeviceKind::Cuda => Memory::Cuda((self.data as u64).wrapping_add(self.offset)),
            DeviceKind::PrivateUse1 => {
                Memory::Opaque { vendor: self.device.vendor(), handle: self.data, offset: self.offset }
            }
        }
    }

    /// Returns the host address, or `None` if the memory is on a device.
    #[inline]
    pub fn host_ptr(&self) -> Option<*mut u8> {
        match self.memory() {
            Memory::Host(p) => Some(p),
            _ => None,
        }
    }

    /// Returns where the memory is on its device, with the base that the allocator returned and the offset. `None` if
    /// the memory is on the host.
    pub fn device_ptr(&self) -> Option<DevicePtr> {
        (self.device.kind() != DeviceKind::Cpu).then(|| self.address())
    }

    /// Returns the span with this vendor's slot in its device, if the device is a PrivateUse1 device; else the
    /// unchanged span.
    pub(crate) fn of_vendor(self, vendor: u8) -> Span {
        match self.device.kind() {
            DeviceKind::PrivateUse1 => Span { device: Device::private(vendor, self.device.index()), ..self },
            _ => self,
        }
    }

    /// Returns base and offset.
    pub(crate) fn address(&self) -> DevicePtr {
        DevicePtr { base: self.data, offset: self.offset }
    }

    /// Returns the number of elements. If the span has an identity, returns the number of bytes.
    #[inline]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Returns the length in bytes, at most `usize::MAX`.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.count().saturating_mul(self.dtype.size())
    }

    /// Returns the element type. If the span has an identity, returns `u8`.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the device.
    #[inline]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns a base and a range of bytes. Two spans of one device overlap if their bases are equal and their ranges
    /// overlap.
    pub(crate) fn range(&self) -> (usize, std::ops::Range<u64>) {
        let len = self.bytes() as u64;
        match self.memory() {
            Memory::Host(p) => (0, p as u64..(p as u64).saturating_add(len)),
            Memory::Cuda(p) => (0, p..p.saturating_add(len)),
            Memory::Opaque { handle, offset, .. } => (handle as usize, offset..offset.saturating_add(len)),
        }
    }

    /// Returns whether the two spans, which are of one device, share memory.
    pub fn overlaps(&self, other: &Span) -> bool {
        let ((base, a), (other, b)) = (self.range(), other.range());
        base == other && a.start < b.end && b.start < a.end
    }

    /// Returns whether this is host memory that can exist: it is not larger than the largest possible allocation, and
    /// it is empty, or aligned and not at null.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        let Some(at) = self.host_ptr() else { return false };
        self.bytes() <= isize::MAX as usize
            && (self.count == 0 || !at.is_null() && at.addr() & (self.dtype.align() - 1) == 0)
    }

    /// Makes every element of a `bool` span in host memory 0 or 1: a peer may have sent other bytes, which are invalid
    /// `bool`s. A span that is not of `bool`, or not in host memory, does not change.
    ///
    /// # Safety
    /// The span's memory is writable, and no other code uses it during the call.
    pub(crate) unsafe fn normalise_bool(&self) {
        if let (DType::Bool, Some(p)) = (self.dtype, self.host_ptr()) {
            for i in 0..self.count() {
                // SAFETY: `i` is inside the span, and the caller guarantees that its memory is writable.
                unsafe { *p.add(i) = u8::from(*p.add(i) != 0) };
            }
        }
    }
}
