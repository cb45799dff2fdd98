//! A place in a device's memory.
#![allow(unsafe_code)]

/// A place in a device's memory: the value that `allocate` of the device runtime returned, and an offset in bytes.
///
/// The base is a device address, or the vendor's own handle if its devices have no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DevicePtr {
    /// The address or handle.
    pub base: *mut (),
    /// The offset in bytes from the base.
    pub offset: u64,
}

// SAFETY: the value is an address and a number. Code that uses the memory at the address needs its own `unsafe`.
unsafe impl Send for DevicePtr {}
// SAFETY: as above.
unsafe impl Sync for DevicePtr {}

impl DevicePtr {
    /// Returns the place that is `bytes` bytes after this place.
    pub fn after(self, bytes: usize) -> DevicePtr {
        DevicePtr { offset: self.offset.wrapping_add(bytes as u64), ..self }
    }
}
