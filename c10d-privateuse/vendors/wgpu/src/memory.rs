//! Device memory: a counted object around a `wgpu::Buffer`, whose address is the handle that c10d keeps.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::device::DevicePtr;

/// What is behind a handle.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) buffer: wgpu::Buffer,
}

impl Memory {
    /// A handle with one owner.
    pub(crate) fn into_handle(self) -> *mut () {
        Arc::into_raw(Arc::new(self)).cast_mut().cast()
    }

    /// The buffer behind a place.
    ///
    /// # Safety
    /// The base is a handle that still has an owner.
    pub(crate) unsafe fn buffer(place: DevicePtr) -> wgpu::Buffer {
        // SAFETY: as promised, and made by `into_handle`.
        unsafe { (*place.base.cast_const().cast::<Memory>()).buffer.clone() }
    }

    /// One more owner.
    ///
    /// # Safety
    /// As `buffer`.
    pub(crate) unsafe fn retain(base: *mut ()) {
        // SAFETY: as promised.
        unsafe { Arc::increment_strong_count(base.cast_const().cast::<Memory>()) }
    }

    /// One owner less; wgpu keeps what work in flight uses.
    ///
    /// # Safety
    /// As `buffer`; the owner is gone.
    pub(crate) unsafe fn release(base: *mut ()) {
        // SAFETY: as promised.
        unsafe { Arc::decrement_strong_count(base.cast_const().cast::<Memory>()) }
    }
}
