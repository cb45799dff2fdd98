//! The device's memory. The host cannot access its addresses. Streams access the memory at other addresses.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use c10d_core::device::DevicePtr;
use c10d_core::{Error, ErrorKind, Result};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// The number of bytes of address space for all allocations of a runtime. Addresses are not reused.
const RESERVED: usize = 1 << 40;
const PAGE: usize = 4096;

/// The value of bytes that were not written yet.
const FRESH: u8 = 0xcd;

#[derive(Default)]
pub(crate) struct Memory(Mutex<Space>);

#[derive(Default)]
struct Space {
    next: usize,
    /// The end of the reserved addresses; 0 if none are reserved yet.
    end: usize,
    blocks: BTreeMap<usize, Arc<Block>>,
}

pub(crate) struct Block {
    start: usize,
    len: usize,
    /// `None` when the memory is freed and no longer retained.
    pages: RwLock<Option<Pages>>,
    life: Mutex<Life>,
}

struct Life {
    freed: bool,
    /// How many more times the memory was retained than released.
    retained: u64,
}

/// Pages that are mapped twice: at `face`, the device's address, where every access crashes, and at `inside`, where
/// streams access them.
struct Pages {
    face: *mut std::ffi::c_void,
    inside: *mut std::ffi::c_void,
    len: usize,
}

// SAFETY: only streams access the contents. The program that uses the streams orders the accesses, as on a real device.
unsafe impl Send for Pages {}
// SAFETY: the same as for `Send`.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps pages at `start`, which is a reserved address.
    fn new(start: usize, len: usize) -> rustix::io::Result<Pages> {
        let file = memfd_create("guarded", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len as u64)?;
        let face = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: this replaces a reservation that belongs to this block alone.
        unsafe { mmap(face, len, ProtFlags::empty(), MapFlags::SHARED | MapFlags::FIXED, &file, 0) }?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: this makes a new mapping at an address that the system selects.
        let inside = unsafe { mmap(std::ptr::null_mut(), len, rights, MapFlags::SHARED, &file, 0) }?;
        // SAFETY: the pages were just mapped, and nothing else uses them yet.
        unsafe { inside.cast::<u8>().write_bytes(FRESH, len) };
        Ok(Pages { face, inside, len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: `new` made both mappings, and no stream uses them any more. The addresses at `face` stay reserved.
        let _ = unsafe {
            munmap(self.inside, self.len).and(mmap_anonymous(self.face, self.len, ProtFlags::empty(), flags))
        };
    }
}

/// A part of an allocation.
#[derive(Clone)]
pub(crate) struct Part {
    block: Arc<Block>,
    first: usize,
    len: usize,
}

fn bad(what: String) -> Error {
    Error::new(ErrorKind::Device, what)
}

impl Memory {
    pub(crate) fn allocate(&self, len: usize) -> Result<*mut ()> {
        let mut space = self.0.lock();
        if space.end == 0 {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: this makes a new mapping at an address that the system selects.
            let base = unsafe { mmap_anonymous(std::ptr::null_mut(), RESERVED, ProtFlags::empty(), flags) }
                .map_err(|e| Error::new(ErrorKind::Resource, "cannot reserve addresses").caused_by(e))?;
            space.next = base.expose_provenance();
            space.end = space.next + RESERVED;
        }
        let start = space.next;
        // A page between allocations stays unused, so that the end of one allocation is not the start of the next.
        let room = len.checked_next_multiple_of(PAGE).and_then(|room| room.checked_add(PAGE));
        let next = room.and_then(|room| start.checked_add(room)).filter(|next| *next <= space.end);
        space.next = next.ok_or_else(|| bad(format!("out of memory: no addresses for {len} bytes")))?;
        let pages = Pages::new(start, len.next_multiple_of(PAGE))
            .map_err(|e| Error::new(ErrorKind::Resource, format!("no pages for {len} bytes")).caused_by(e))?;
        let pages = RwLock::new(Some(pages));
        let life = Mutex::new(Life { freed: false, retained: 0 });
        space.blocks.insert(start, Arc::new(Block { start, len, pages, life }));
        Ok(std::ptr::with_exposed_provenance_mut(start))
    }

    /// Returns the allocation that contains this address.
    fn block(&self, address: usize) -> Result<Arc<Block>> {
        let space = self.0.lock();
        let block = space.blocks.range(..=address).next_back().map(|(_, block)| block.clone());
        block
            .filter(|block| address < block.start + block.len)
            .ok_or_else(|| bad(format!("{address:#x} is not memory of this device, or was freed")))
    }

    /// Returns the part of an allocation that begins at `place` and has `len` bytes.
    pub(crate) fn part(&self, place: DevicePtr, len: usize) -> Result<Part> {
        let address = (place.base.addr() as u64).wrapping_add(place.offset) as usize;
        let block = self.block(address)?;
        let first = address - block.start;
        if len > block.len - first {
            return Err(bad(format!("{len} bytes at {address:#x} go beyond the end of their allocation")));
        }
        Ok(Part { block, first, len })
    }

    pub(crate) fn free(&self, base: *mut ()) -> Result {
        let block = self.block(base.addr())?;
        if block.start != base.addr() {
            return Err(bad(format!("{base:?} is not the start of an allocation")));
        }
        self.ends(&block, |life| {
            if life.freed {
                return Err(bad(format!("{base:?} was freed already")));
            }
            life.freed = true;
            Ok(())
        })
    }

    pub(crate) fn retain(&self, base: *mut ()) -> Result {
        let block = self.block(base.addr())?;
        let mut life = block.life.lock();
        if life.freed {
            return Err(bad(format!("{base:?} was freed already")));
        }
        life.retained += 1;
        Ok(())
    }

    pub(crate) fn release(&self, base: *mut ()) -> Result {
        let block = self.block(base.addr())?;
        self.ends(&block, |life| {
            life.retained = life.retained.checked_sub(1).ok_or_else(|| bad(format!("{base:?} was not retained")))?;
            Ok(())
        })
    }

    /// Removes an owner by `change`. If the memory then has no owner, frees it.
    fn ends(&self, block: &Arc<Block>, change: impl FnOnce(&mut Life) -> Result) -> Result {
        let mut life = block.life.lock();
        change(&mut life)?;
        let over = life.freed && life.retained == 0;
        drop(life);
        if over {
            *block.pages.write() = None;
            self.0.lock().blocks.remove(&block.start);
        }
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().blocks.len()
    }
}

impl Part {
    /// Calls `use_it` with the address and length of the part. Returns an error if the memory was freed. Several
    /// streams may access the memory at once.
    pub(crate) fn with<T>(&self, use_it: impl FnOnce(*mut u8, usize) -> T) -> Result<T, String> {
        let pages = self.block.pages.read();
        match &*pages {
            Some(pages) => Ok(use_it(pages.inside.cast::<u8>().wrapping_add(self.first), self.len)),
            None => Err(format!("memory at {:#x} was freed before the work on it ran", self.block.start + self.first)),
        }
    }
}
