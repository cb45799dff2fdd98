//! Memory that one rank fills and then seals, which makes it read-only.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use rustix::fs::SealFlags;

use super::memfd::{Memfd, zeroed};
use crate::{Error, ErrorKind, Result};

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL).union(SealFlags::WRITE);

/// New memory, all zeros, that is not shared. A forked child does not have it.
pub struct Fresh {
    map: MmapMut,
    memory: Memfd,
}

/// Memory to which no process can write any more, not even a process that has the descriptor.
pub struct Sealed(Memfd);

/// Sealed memory that is mapped read-only. The operating system frees the memory when no process has a mapping or a
/// descriptor of it. A forked child has the mapping.
pub struct Mapped(Mmap);

impl Fresh {
    /// Allocates `size` zero bytes, at least one. All of the memory is allocated, since the kernel would report a later
    /// failure by a signal.
    ///
    /// # Errors
    /// `Resource`; the error names the resource that ran out, and its limit.
    pub fn new(size: usize) -> Result<Fresh> {
        let (map, memory) = zeroed(size)?;
        Ok(Fresh { map, memory })
    }

    /// Makes the memory read-only for all processes.
    ///
    /// # Errors
    /// `Resource` if an operation that writes to the memory is still in progress, for example an asynchronous read from
    /// a file.
    pub fn seal(self) -> Result<Sealed> {
        let Fresh { map, memory } = self;
        drop(map);
        rustix::fs::fcntl_add_seals(memory.as_fd(), SEALS).map_err(|e| {
            let what =
                "cannot seal shared memory: an operation that writes to it may still be in progress, for example a \
                    read from a file";
            Error::new(ErrorKind::Resource, what).caused_by(e)
        })?;
        Ok(Sealed(memory))
    }
}

impl Deref for Fresh {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for Fresh {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl Sealed {
    /// Accepts memory from a peer if it is sealed and has `size` bytes.
    ///
    /// # Errors
    /// `Protocol` otherwise.
    pub fn from_peer(fd: OwnedFd, size: usize) -> Result<Sealed> {
        let wrong = |what: &str| {
            Error::new(ErrorKind::Protocol, format!("the descriptor of shared memory that a peer passed {what}"))
        };
        let memory = Memfd::from(fd);
        let seals = rustix::fs::fcntl_get_seals(memory.as_fd())
            .map_err(|e| wrong("is not one of shared memory").caused_by(e))?;
        if !seals.contains(SEALS) {
            return Err(wrong("is of memory that can still be written"));
        }
        let there = memory.len().map_err(|e| wrong("has no known size").caused_by(e))?;
        if there != size as u64 {
            return Err(wrong(&format!("is of {there} bytes, not {size}")));
        }
        Ok(Sealed(memory))
    }

    /// Returns the descriptor, for peers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Maps the memory and closes the descriptor.
    ///
    /// # Errors
    /// `Resource`; the error names the resource that ran out, and its limit.
    pub fn map(self) -> Result<Mapped> {
        // A private mapping, since kernels before 6.7 reject shared mappings of sealed memory. While it is only read,
        // it has the pages of the memfd itself.
        // SAFETY: the seals prevent every process from writing to the memory and from shrinking it.
        let map = unsafe { MmapOptions::new().map_copy_read_only(&self.0) }
            .map_err(|e| Error::new(ErrorKind::Resource, "cannot map shared memory").caused_by(e))?;
        let _ = map.advise(Advice::HugePage);
        Ok(Mapped(map))
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn filled(size: usize) -> Sealed {
        let mut fresh = Fresh::new(size).unwrap();
        assert!(fresh.iter().all(|byte| *byte == 0));
        (0u8..).zip(&mut *fresh).for_each(|(i, byte)| *byte = i);
        fresh.seal().unwrap()
    }

    #[test]
    fn sealed_memory_is_readable_and_cannot_be_written() {
        let sealed = filled(100);
        let copy = sealed.fd().try_clone_to_owned().unwrap();
        let other = Sealed::from_peer(sealed.fd().try_clone_to_owned().unwrap(), 100).unwrap().map().unwrap();
        let map = sealed.map().unwrap();
        assert!((0u8..100).eq(map.iter().copied()) && *map == *other);

        let file = File::from(copy);
        assert!(std::os::unix::fs::FileExt::write_at(&file, &[1], 0).is_err());
        assert!(file.set_len(0).is_err() && file.set_len(1 << 20).is_err());
        // SAFETY: the kernel refuses a writable mapping of sealed memory.
        assert!(unsafe { MmapOptions::new().map_mut(&file) }.is_err());
        drop((map, other));
    }

    #[test]
    fn memory_that_a_peer_can_still_write_is_rejected() {
        let of = |fd: OwnedFd, size| Sealed::from_peer(fd, size).err().unwrap().report().what.clone();
        let open = Fresh::new(100).unwrap();
        assert!(of(open.memory.as_fd().try_clone_to_owned().unwrap(), 100).contains("can still be written"));
        assert!(of(filled(100).fd().try_clone_to_owned().unwrap(), 99).contains("is of 100 bytes, not 99"));
        assert!(of(File::open("/dev/null").unwrap().into(), 0).contains("is not one of shared memory"));
    }

    #[test]
    fn too_large_memory_is_an_error() {
        let error = Fresh::new(1 << 60).err().unwrap();
        assert_eq!(*error.kind(), ErrorKind::Resource);
    }
}
