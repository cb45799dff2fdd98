//! Device memory: a reference-counted object that contains a `wgpu::Buffer`. Its address is the handle that c10d uses.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::device::DevicePtr;

/// The object of a handle.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) buffer: wgpu::Buffer,
}

impl Memory {
    /// Makes a handle with one owner.
    pub(crate) fn into_handle(self) -> *mut () {
        Arc::into_raw(Arc::new(self)).cast_mut().cast()
    }

    /// The buffer of a place.
    ///
    /// # Safety
    /// The base is a handle that still has an owner.
    pub(crate) unsafe fn buffer(place: DevicePtr) -> wgpu::Buffer {
        // SAFETY: the caller guarantees it, and `into_handle` made it.
        unsafe { (*place.base.cast_const().cast::<Memory>()).buffer.clone() }
    }

    /// Adds an owner.
    ///
    /// # Safety
    /// The same as for `buffer`.
    pub(crate) unsafe fn retain(base: *mut ()) {
        // SAFETY: the caller guarantees it.
        unsafe { Arc::increment_strong_count(base.cast_const().cast::<Memory>()) }
    }

    /// Removes an owner. wgpu keeps buffers that unfinished work uses.
    ///
    /// # Safety
    /// The same as for `buffer`; the owner no longer uses it.
    pub(crate) unsafe fn release(base: *mut ()) {
        // SAFETY: the caller guarantees it.
        unsafe { Arc::decrement_strong_count(base.cast_const().cast::<Memory>()) }
    }
}
