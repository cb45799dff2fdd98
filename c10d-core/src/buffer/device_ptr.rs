//! A place in a device's memory.
#![allow(unsafe_code)]

/// A place in a device's memory: the value that the runtime's `allocate` returned, and an offset in bytes.
///
/// The base is a device address, or the vendor's own handle if its devices have no addresses. The host never reads
/// through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DevicePtr {
    /// The address or handle.
    pub base: *mut (),
    /// Bytes from its start.
    pub offset: u64,
}

// SAFETY: a place is an address and a number; using the memory behind it is unsafe and bound by its own rules.
unsafe impl Send for DevicePtr {}
// SAFETY: as above.
unsafe impl Sync for DevicePtr {}

impl DevicePtr {
    /// The place `bytes` further on.
    pub fn after(self, bytes: usize) -> DevicePtr {
        DevicePtr { offset: self.offset.wrapping_add(bytes as u64), ..self }
    }
}
