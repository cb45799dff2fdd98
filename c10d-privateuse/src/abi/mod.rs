//! The Rust mirror of `include/c10d_plugin.h`. The header is the contract and documents everything.
//!
//! Every struct is valid if all of its bytes are zero. The struct of an older plugin may be shorter: c10d copies it
//! into a struct of zeros.
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

/// The major version.
pub const MAJOR: u16 = 1;
/// The minor version of this build.
pub const MINOR: u16 = 2;
/// The entry's name.
pub const ENTRY: &str = "c10d_plugin_v1";

/// A struct that begins with its size. A struct from a host or plugin of another minor version may be shorter or
/// longer.
///
/// # Safety
/// The type is `repr(C)`, begins with `struct_size: u32`, and is valid if all bytes are zero.
pub unsafe trait Sized32: Copy {
    /// The size in version 1.0. A struct with a smaller size is not valid.
    const LEAST: usize;
    /// The offset from which on all fields are function pointers; `usize::MAX` if there are none.
    const FUNCTIONS: usize = usize::MAX;
}

/// Returns the size of a struct, for its first field.
pub const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Makes a struct whose first field has the struct's size, and whose other fields are zero.
pub fn empty<T: Sized32>() -> T {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `Sized32` guarantees that zeros are valid and that the size is the first field.
    unsafe {
        value.as_mut_ptr().cast::<u32>().write(size::<T>());
        value.assume_init()
    }
}

/// Returns the first 64 KiB of the text with this pointer and length. If the pointer is null, the text is empty.
///
/// # Safety
/// `data` is null or points to `len` bytes.
pub unsafe fn text<'a>(data: *const std::ffi::c_char, len: u64) -> std::borrow::Cow<'a, str> {
    if data.is_null() {
        return "".into();
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(64 << 10);
    // SAFETY: the caller guarantees it.
    String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })
}
