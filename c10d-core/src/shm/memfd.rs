//! Memory that is identified by a descriptor.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::headroom::headroom;
use crate::{Error, ErrorKind, Result};

/// An empty memfd that can be sealed.
pub fn memfd() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know NOEXEC_SEAL.
    match rustix::fs::memfd_create(c"c10d", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"c10d", flags),
        other => other,
    }
}

/// Allocates the memory now. If it were allocated later, a failure would be a signal when a page is touched.
pub fn reserve(fd: BorrowedFd<'_>, size: usize) -> Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size as u64) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Rejects a size that would later end in a signal: more than the memory cgroup has left divided by `parts`, or more
/// than the maximum size of a file.
pub fn check_room(what: &str, size: usize, parts: u64) -> Result {
    let refused = |why: String| Error::new(ErrorKind::Resource, format!("{what} needs {size} bytes, {why}"));
    if let Some(left) = headroom()
        && size as u64 > left / parts
    {
        return Err(refused(format!("and the memory cgroup has {left} left")));
    }
    match getrlimit(Resource::Fsize).current {
        Some(limit) if size as u64 > limit => {
            Err(refused(format!("RLIMIT_FSIZE allows {limit}; raise it with ulimit -f")))
        }
        _ => Ok(()),
    }
}
