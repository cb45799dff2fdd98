//! Device memory: a reference-counted object with a `wgpu::Buffer`. The object's address is the handle that c10d uses.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::device::DevicePtr;

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) buffer: wgpu::Buffer,
}

impl Memory {
    /// Converts the object to a handle that has one owner.
    pub(crate) fn into_handle(self) -> *mut () {
        Arc::into_raw(Arc::new(self)).cast_mut().cast()
    }

    /// Returns the buffer of a handle.
    ///
    /// # Safety
    /// `place.base` is a handle that still has an owner.
    pub(crate) unsafe fn buffer(place: DevicePtr) -> wgpu::Buffer {
        // SAFETY: the caller guarantees that the base is a handle with an owner, and `into_handle` makes handles from
        // this type.
        unsafe { (*place.base.cast_const().cast::<Memory>()).buffer.clone() }
    }

    /// Adds an owner.
    ///
    /// # Safety
    /// `base` is a handle that still has an owner.
    pub(crate) unsafe fn retain(base: *mut ()) {
        // SAFETY: the caller guarantees it.
        unsafe { Arc::increment_strong_count(base.cast_const().cast::<Memory>()) }
    }

    /// Removes an owner. wgpu keeps a buffer that unfinished work still uses.
    ///
    /// # Safety
    /// `base` is a handle with an owner that does not use it any more.
    pub(crate) unsafe fn release(base: *mut ()) {
        // SAFETY: the caller guarantees it.
        unsafe { Arc::decrement_strong_count(base.cast_const().cast::<Memory>()) }
    }
}
