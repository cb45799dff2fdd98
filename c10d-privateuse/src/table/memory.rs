//! Reads a plugin's structs: only mapped memory, and only the fields that both the plugin and this c10d know.
#![allow(unsafe_code)]

use super::mappings::Mappings;
use crate::abi::{self, Sized32};
use crate::refusal::{Refusal, Rule};

/// The largest size of a table in any version.
const MOST_BYTES: usize = 4096;

pub(super) struct PluginMemory {
    mappings: Mappings,
}

pub(super) fn bad(what: impl Into<String>) -> Refusal {
    Refusal::new(Rule::Table, what)
}

impl PluginMemory {
    pub(super) fn now() -> Result<PluginMemory, Refusal> {
        Ok(PluginMemory { mappings: Mappings::now()? })
    }

    pub(super) fn readable(&self, address: usize, len: usize) -> bool {
        self.mappings.readable(address, len)
    }

    /// Copies a struct. The fields that the plugin's struct lacks are zero.
    pub(super) fn copy<T: Sized32>(&self, from: *const T, what: &str) -> Result<T, Refusal> {
        let address = from as usize;
        if !address.is_multiple_of(align_of::<T>()) || !self.mappings.readable(address, 4) {
            return Err(bad(format!("{what} is at {from:p}, which is not aligned or not readable")));
        }
        // SAFETY: the check above ensures that the first field is aligned and readable.
        let size = unsafe { from.cast::<u32>().read() } as usize;
        if size < T::LEAST || size > MOST_BYTES {
            return Err(bad(format!("{what} has size {size} in its first field; version 1.0 has {}", T::LEAST)));
        }
        if !self.mappings.readable(address, size) {
            return Err(bad(format!("{what} has size {size} in its first field, but not all of it is readable")));
        }
        let mut value = abi::empty::<T>();
        // SAFETY: `size` bytes are readable, and the copy is not longer than `value`. The struct has numbers and
        // pointers, for which all bytes are valid.
        unsafe {
            let len = size.min(size_of::<T>());
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), len);
        }
        self.functions(&value, what)?;
        Ok(value)
    }

    /// Checks that the functions of a table are in executable memory.
    fn functions<T: Sized32>(&self, value: &T, what: &str) -> Result<(), Refusal> {
        for at in (T::FUNCTIONS..size_of::<T>()).step_by(8) {
            // SAFETY: `at` is within the value, which from `FUNCTIONS` on consists of function pointers of 8 bytes
            // (layout.rs).
            let address = unsafe { (&raw const *value).cast::<u8>().add(at).cast::<usize>().read() };
            if address != 0 && !self.mappings.executable(address) {
                return Err(bad(format!(
                    "{what}: the function at byte {at} is at {address:#x}, which is not executable"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn text(&self, data: *const std::ffi::c_char, len: u64, what: &str) -> Result<String, Refusal> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if size > 256 || (size > 0 && !self.mappings.readable(data as usize, size)) {
            return Err(bad(format!("{what} has {len} bytes at {data:p}: more than 256, or not readable")));
        }
        // SAFETY: the check above ensures that the text is readable, unless it is empty.
        Ok(if size == 0 { String::new() } else { unsafe { abi::text(data, len) }.into_owned() })
    }
}
