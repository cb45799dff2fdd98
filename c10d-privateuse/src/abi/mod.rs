//! The Rust mirror of `include/c10d_plugin.h`; the header is the contract and says what everything means.
//!
//! Every struct is valid when all of its bytes are zero, so a shorter one from an older plugin is read into zeros.
#![allow(unsafe_code)]
#![allow(missing_docs, reason = "the header documents each field once")]

mod call;
pub mod codes;
mod device;
mod host;
mod layout;
mod note;
mod plugin;
mod why;

pub use call::{DoneFn, Request, Result, Span};
pub use device::Device;
pub use host::Host;
pub use note::{Note, note};
pub use plugin::{Capabilities, Collectives, GroupInit, Plugin};
pub use why::Why;

/// The major version, also in the entry's name.
pub const MAJOR: u16 = 1;
/// The minor version of this side.
pub const MINOR: u16 = 2;
/// The entry's name.
pub const ENTRY: &str = "c10d_plugin_v1";

/// A struct that begins with its size and may be shorter or longer on the other side.
///
/// # Safety
/// `repr(C)`, begins with `struct_size: u32`, and is valid when all bytes are zero.
pub unsafe trait Sized32: Copy {
    /// The size that version 1.0 has; a smaller one is no such struct.
    const LEAST: usize;
    /// From where on all of it are pointers to functions; most structs have none.
    const FUNCTIONS: usize = usize::MAX;
}

/// The struct's own size, for its first field.
pub const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// A zeroed value with its size filled in.
pub fn empty<T: Sized32>() -> T {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: valid when zero (Sized32), and begins with the size.
    unsafe {
        value.as_mut_ptr().cast::<u32>().write(size::<T>());
        value.assume_init()
    }
}

/// Text behind pointer and length; not more than 64 KiB of it, and nothing if the pointer is null.
///
/// # Safety
/// `data` is null or points to `len` bytes.
pub unsafe fn text<'a>(data: *const std::ffi::c_char, len: u64) -> std::borrow::Cow<'a, str> {
    if data.is_null() {
        return "".into();
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(64 << 10);
    // SAFETY: promised by the caller.
    String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })
}
