//! Room for the reason of a failure.

use std::ffi::c_char;

use super::{Sized32, size};

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Why {
    pub struct_size: u32,
    pub len: u32,
    pub capacity: u64,
    pub text: *mut c_char,
}

// SAFETY: `Why` is repr(C), begins with its size, and is valid if all bytes are zero.
unsafe impl Sized32 for Why {
    const LEAST: usize = size_of::<Why>();
}

impl Why {
    /// Calls `f` with room for a reason. Returns the result of `f` and the reason.
    pub fn ask<T>(f: impl FnOnce(*mut Why) -> T) -> (T, String) {
        let mut room = [0u8; 1024];
        let mut why =
            Why { struct_size: size::<Why>(), len: 0, capacity: room.len() as u64, text: room.as_mut_ptr().cast() };
        let value = f(&mut why);
        let len = (why.len as usize).min(room.len());
        (value, String::from_utf8_lossy(&room[..len]).into_owned())
    }

    /// Writes a reason, cut to the available room. Does nothing if `why` is null.
    ///
    /// # Safety
    /// `why` is null or a valid `c10d_why` with `capacity` writable bytes.
    pub unsafe fn say(why: *mut Why, text: &str) {
        if why.is_null() {
            return;
        }
        // SAFETY: the caller guarantees it.
        unsafe {
            let room = usize::try_from((*why).capacity).unwrap_or(usize::MAX);
            let mut len = text.len().min(room).min(u32::MAX as usize);
            while !text.is_char_boundary(len) {
                len -= 1;
            }
            if len > 0 {
                std::ptr::copy_nonoverlapping(text.as_ptr(), (*why).text.cast::<u8>(), len);
            }
            (*why).len = len as u32;
        }
    }
}
