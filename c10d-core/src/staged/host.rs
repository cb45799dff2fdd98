//! Host memory for staging.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::Arc;

use crate::device::DeviceRuntime;
use crate::panics::contain;
use crate::{Error, Result};

/// The alignment of tensors in host memory, in bytes.
const ALIGN: usize = 64;
/// The smallest size of a block in bytes, so that small ops of different sizes can reuse a block.
const LEAST: usize = 4096;

/// A block of host memory. The runtime's `allocate_host` allocates it, or Rust's allocator if `allocate_host` returns
/// no aligned block. Drop frees the block, so a block that the device may still use must be leaked.
pub(super) struct Host {
    runtime: Arc<dyn DeviceRuntime>,
    base: *mut u8,
    bytes: usize,
    layout: Option<Layout>,
}

// SAFETY: the block has one owner, and the runtime may be called from any thread.
unsafe impl Send for Host {}
// SAFETY: a shared reference only gives access to the address and size.
unsafe impl Sync for Host {}

impl Host {
    /// Allocates at least this many bytes, with unspecified contents.
    pub(super) fn new(runtime: &Arc<dyn DeviceRuntime>, bytes: usize) -> Result<Host> {
        let bytes = bytes.max(LEAST).checked_next_power_of_two().unwrap_or(bytes);
        if let Some(base) = runtime.allocate_host(bytes) {
            let host = Host { runtime: runtime.clone(), base, bytes, layout: None };
            if base.addr().is_multiple_of(ALIGN) {
                return Ok(host);
            }
        }
        let no_room = || Error::no_memory(format!("cannot allocate {bytes} bytes of host memory for staging"));
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| no_room())?;
        // SAFETY: the size is not 0.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            return Err(no_room());
        }
        Ok(Host { runtime: runtime.clone(), base, bytes, layout: Some(layout) })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        match self.layout {
            // SAFETY: the block was allocated with this layout, and is freed once.
            Some(layout) => unsafe { dealloc(self.base, layout) },
            // SAFETY: the block was returned by `allocate_host` for this size. No copy uses it: such a block is leaked,
            // not dropped.
            None => contain("a device's free_host", || unsafe { self.runtime.free_host(self.base, self.bytes) }),
        }
    }
}
