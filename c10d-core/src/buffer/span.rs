//! A span: where the elements of one tensor are.
#![allow(unsafe_code)]

use smallvec::SmallVec;

use super::DevicePtr;
use crate::types::{DType, Device, DeviceKind, Element, Identity};

/// The elements of one contiguous tensor: base (host address or opaque device handle), byte offset, count, type, device.
///
/// A span does not borrow the memory: its maker guarantees that the memory is valid (see [`Buffers`](super::Buffers)).
/// Only [`Span::memory`] and [`Span::host_ptr`] return the address, so host code that gets a span of a device receives
/// `None` instead of an invalid pointer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Span {
    data: *mut (),
    offset: u64,
    count: u64,
    device: Device,
    dtype: DType,
    /// The identity of the elements, whose size in bytes `count` then is; 0: the elements are of type `dtype`.
    identity: u16,
}

const _: () = assert!(size_of::<Span>() == 32);

// SAFETY: a span is an address and some numbers; using the memory behind it is unsafe and bound by its own rules.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

/// The spans of one side of an op. One costs no allocation.
pub type Spans = SmallVec<[Span; 1]>;

/// Where a span's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Memory {
    /// A host address.
    Host(*mut u8),
    /// A CUDA device address.
    Cuda(u64),
    /// A vendor's own object and a byte offset into it; valid while the buffer lives. The vendor checks `vendor` (the
    /// device's vendor slot) before it casts the handle.
    Opaque {
        /// The vendor's slot.
        vendor: u8,
        /// The vendor's object.
        handle: *mut (),
        /// Bytes from its start.
        offset: u64,
    },
}

impl Span {
    /// `count` elements of host memory.
    #[inline]
    pub fn host<T: Element>(data: *mut T, count: usize) -> Span {
        Span { data: data.cast(), offset: 0, count: count as u64, device: Device::CPU, dtype: T::DTYPE, identity: 0 }
    }

    /// `count` elements of type `dtype` on `device`, `offset` bytes after `base` (a host address, a CUDA address or a
    /// vendor's handle, depending on the device).
    pub fn new(base: *mut (), offset: u64, count: u64, dtype: DType, device: Device) -> Span {
        Span { data: base, offset, count, device, dtype, identity: 0 }
    }

    /// The same bytes, known as elements of a type that is no [`DType`]; see [`Identity`].
    pub fn identified(self, identity: Identity) -> Span {
        Span { identity: Identity::code(Some(identity)), ..self }
    }

    /// The identity of the elements, if their type is not a [`DType`].
    #[inline]
    pub fn identity(&self) -> Option<Identity> {
        Identity::from_code(self.identity)
    }

    /// Where the memory is.
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

    /// The host address, if the memory is the host's.
    #[inline]
    pub fn host_ptr(&self) -> Option<*mut u8> {
        match self.memory() {
            Memory::Host(p) => Some(p),
            _ => None,
        }
    }

    /// Where the memory is on its device, with base and offset separate, as its allocator knows it; `None` on the host.
    pub fn device_ptr(&self) -> Option<DevicePtr> {
        (self.device.kind() != DeviceKind::Cpu).then(|| self.address())
    }

    /// The same memory with this vendor's slot, if the device is a PrivateUse1 device.
    pub(crate) fn of_vendor(self, vendor: u8) -> Span {
        match self.device.kind() {
            DeviceKind::PrivateUse1 => Span { device: Device::private(vendor, self.device.index()), ..self },
            _ => self,
        }
    }

    /// The place in the device's memory, whatever the base means on the device.
    pub(crate) fn address(&self) -> DevicePtr {
        DevicePtr { base: self.data, offset: self.offset }
    }

    /// How many elements.
    #[inline]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// How many bytes; saturates at `usize::MAX`.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.count().saturating_mul(self.dtype.size())
    }

    /// The element type.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device.
    #[inline]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Base and byte range, for comparing spans of one device.
    pub(crate) fn range(&self) -> (usize, std::ops::Range<u64>) {
        let len = self.bytes() as u64;
        match self.memory() {
            Memory::Host(p) => (0, p as u64..(p as u64).saturating_add(len)),
            Memory::Cuda(p) => (0, p..p.saturating_add(len)),
            Memory::Opaque { handle, offset, .. } => (handle as usize, offset..offset.saturating_add(len)),
        }
    }

    /// Whether it is host memory that can exist: not larger than any, not at null, aligned.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        let Some(at) = self.host_ptr() else { return false };
        self.bytes() <= isize::MAX as usize
            && (self.count == 0 || !at.is_null() && at.addr() & (self.dtype.align() - 1) == 0)
    }

    /// Makes every element of a host `bool` span 0 or 1, so that a peer's stray byte never becomes an invalid `bool`.
    ///
    /// # Safety
    /// The span's memory is writable and nobody else uses it during the call.
    pub(crate) unsafe fn normalise_bool(&self) {
        if let (DType::Bool, Some(p)) = (self.dtype, self.host_ptr()) {
            for i in 0..self.count() {
                // SAFETY: within the span; the caller answers for the memory.
                unsafe { *p.add(i) = u8::from(*p.add(i) != 0) };
            }
        }
    }
}
