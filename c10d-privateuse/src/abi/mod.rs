//! The Rust mirror of `include/c10d_plugin.h`. The header is the contract and documents everything.
//!
//! Every struct is valid if all of its bytes are zero, so a shorter struct of an older plugin is read into zeros.
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

/// A struct that begins with its size. The other side's may be shorter or longer.
///
/// # Safety
/// `repr(C)`, begins with `struct_size: u32`, and is valid when all bytes are zero.
pub unsafe trait Sized32: Copy {
    /// The size in version 1.0; a smaller one is not valid.
    const LEAST: usize;
    /// The offset from which on all fields are function pointers; most structs have none.
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

/// The text at this pointer and length, at most 64 KiB of it; empty if the pointer is null.
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
