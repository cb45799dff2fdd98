//! The private memory of a peer's process on this host. A rank reads it by a system call (`process_vm_readv`).
//!
//! The operating system allows this call if this process may trace the peer: both must run as the same user, and Yama
//! must not restrict tracing. So each rank tries the call when its links are made. The peer's process ID is the one
//! that the operating system reports for the UNIX socket to the peer. If the peer ends, another process may get this
//! ID. So the owner of a segment publishes the address and the value of a *mark*: random bytes in its private memory.
//! Each call reads the mark together with the bytes, and compares it with the published one.
//!
//! If the peer's memory is in a file or device that does not answer (such as a network file system), the call blocks
//! until the file or device answers, beyond any deadline.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use c10d_core::Result;
use c10d_core::process::random;

/// The published part, in the header of the owner's segment.
#[repr(C)]
pub(super) struct Origin {
    /// The address of the mark in the owner's process, or 0 if peers must not read the owner's private memory.
    at: AtomicU64,
    pub(super) mark: [AtomicU64; 2],
}

/// The mark in the private memory of the owner.
pub(super) struct Mark(Box<[u64; 2]>);

impl Mark {
    pub(super) fn new() -> Result<Mark> {
        Ok(Mark(Box::new([u64::from_le_bytes(random()?), u64::from_le_bytes(random()?)])))
    }

    /// Publishes the mark. The mark must stay at its address until no peer reads memory of this process any more.
    pub(super) fn publish(&self, origin: &Origin) {
        origin.mark.iter().zip(*self.0).for_each(|(to, half)| to.store(half, Ordering::Relaxed));
        origin.at.store(&raw const *self.0 as u64, Ordering::Release);
    }
}

/// A peer's process, whose private memory this process may read.
pub(super) struct PeerMemory {
    process: libc::pid_t,
    mark_at: usize,
    mark: [u64; 2],
}

impl PeerMemory {
    /// Makes the value with which this process reads the memory of a peer. `process` is the id of the peer's process,
    /// and `origin` is in the peer's segment. Returns `None` if the peer does not let others read its memory, or if the
    /// operating system does not let this process read that memory.
    pub(super) fn open(process: libc::pid_t, origin: &Origin) -> Option<PeerMemory> {
        let mark_at = origin.at.load(Ordering::Acquire) as usize;
        let mark = [0, 1].map(|i| origin.mark[i].load(Ordering::Relaxed));
        let memory = PeerMemory { process, mark_at, mark };
        let mut byte = 0;
        // SAFETY: `byte` is writable.
        (mark_at != 0 && unsafe { memory.read(mark_at, &raw mut byte, 1) }).then_some(memory)
    }

    /// Copies the `len` bytes at the address `from` of the peer's process to `to`. Returns `false` if they could not be
    /// read, or if the process is not the peer. In both cases, `to` may have been written to.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes, and no other code uses these bytes.
    pub(super) unsafe fn read(&self, from: usize, to: *mut u8, len: usize) -> bool {
        let mut mark = [0u64; 2];
        let part = |at: usize, len| libc::iovec { iov_base: at as *mut libc::c_void, iov_len: len };
        let local = [part(to as usize, len), part((&raw mut mark) as usize, size_of_val(&mark))];
        let remote = [part(from, len), part(self.mark_at, size_of_val(&mark))];
        // SAFETY: the kernel writes at most to the two local ranges, which are writable. It checks the remote ranges.
        let n = unsafe { libc::process_vm_readv(self.process, local.as_ptr(), 2, remote.as_ptr(), 2, 0) };
        n == (len + size_of_val(&mark)) as isize && mark == self.mark
    }
}
