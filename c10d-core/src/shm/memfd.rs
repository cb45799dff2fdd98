//! Memory that is identified by a descriptor (memfd).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use memmap2::{Advice, MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::headroom::headroom;
use crate::process::Private;
use crate::{Error, ErrorKind, Result, resource};

/// Makes an empty memfd that can be sealed.
pub fn memfd() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not support NOEXEC_SEAL.
    match rustix::fs::memfd_create(c"c10d", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"c10d", flags),
        other => other,
    }
}

/// Allocates the memory of the file now. If the kernel allocated a page at its first use, it would report a failure by
/// a signal.
pub fn reserve(fd: BorrowedFd<'_>, size: usize) -> Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size as u64) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Returns an error if `size` is more than `headroom() / parts`, or more than the maximum size of a file. Without this
/// check, a later use of the memory could end the process by a signal. With `parts` = 2, half of the cgroup's remaining
/// memory is left to others. `what` names the memory in the error.
pub fn check_room(what: &str, size: usize, parts: u64) -> Result {
    let refused = |why: String| Error::new(ErrorKind::Resource, format!("{what} needs {size} bytes, {why}"));
    if let Some(left) = headroom()
        && size as u64 > left / parts
    {
        return Err(refused(format!("and the memory cgroup has {left} left ({})", resource::memory())));
    }
    match getrlimit(Resource::Fsize).current {
        Some(limit) if size as u64 > limit => {
            Err(refused(format!("RLIMIT_FSIZE allows {limit}; raise it with ulimit -f")))
        }
        _ => Ok(()),
    }
}

/// The smallest page size. Mappings are aligned to it.
pub(super) const PAGE: usize = 4096;

/// A memfd that forked children do not have.
pub(super) struct Memfd {
    /// Replaces the descriptor in forked children. It is the first field, so it is dropped before the descriptor is
    /// closed: another file may then get the same number.
    _private: Private,
    file: File,
}

impl From<OwnedFd> for Memfd {
    fn from(fd: OwnedFd) -> Memfd {
        Memfd { _private: Private::new(&fd), file: fd.into() }
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Memfd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Memfd {
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// Makes a memfd of `size` zero bytes, and maps it for writing. `size` is at least 1. No other process has the mapping,
/// not even a forked child. All of the memory is allocated, since the kernel would report a later failure by a signal.
pub(super) fn zeroed(size: usize) -> Result<(MmapMut, Memfd)> {
    check_room("shared memory", size, 1)?;
    let refused = || Error::new(ErrorKind::Resource, format!("cannot allocate {size} bytes of shared memory"));
    let memory = Memfd::from(memfd().map_err(|e| refused().caused_by(e))?);
    memory.file.set_len(size as u64).map_err(|e| refused().caused_by(e))?;
    // SAFETY: no other code has the descriptor. The callers keep it private until they have sealed the file, so nobody
    // shrinks the file or writes to it by the descriptor.
    let map = unsafe { MmapOptions::new().len(size).map_mut(&memory) }.map_err(|e| refused().caused_by(e))?;
    // A forked child's copy would be a writable mapping, which prevents sealing.
    map.advise(Advice::DontFork).map_err(|e| refused().caused_by(e))?;
    // This may fail: some kernels are built without huge pages.
    let _ = map.advise(Advice::HugePage);
    populate(&map, &memory, size).map_err(|e| match e {
        // The kernel returns EFAULT if it cannot allocate a page.
        Errno::FAULT => Error::no_memory(refused().report().what.clone()),
        e => refused().caused_by(e),
    })?;
    Ok((map, memory))
}

/// Allocates all pages of the mapping, as huge pages if the system has them.
fn populate(map: &MmapMut, memory: &Memfd, size: usize) -> Result<(), Errno> {
    match map.advise(Advice::PopulateWrite).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)) {
        // Kernels before 5.14 reject this advice with EINVAL.
        Err(Errno::INVAL) => reserve(memory.as_fd(), size),
        other => other,
    }
}
