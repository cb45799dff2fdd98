//! Descriptors that are closed in forked children.
//!
//! Close-on-exec has no effect in a child that never calls exec. While a child has a copy of a connection's descriptor,
//! the peer does not see that the parent has closed the connection. So the child replaces each copy by a socket whose
//! other end is closed. The descriptor's number stays in use, since the drop of an inherited value in the child closes
//! this number.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

/// The value of a place that has no descriptor.
const NONE: i32 = -1;
/// The number of places in a chunk.
const LEN: usize = 1020;

/// A part of the list of descriptors. It has no lock, since a forked child could find the lock held forever.
struct Chunk {
    places: [AtomicI32; LEN],
    /// The next chunk. Chunks are never freed.
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    const fn new() -> Chunk {
        Chunk { places: [const { AtomicI32::new(NONE) }; LEN], next: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Chunk> {
        // SAFETY: the pointer is null, or was set by `more` to a leaked chunk.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the next chunk, and makes it if there is none.
    fn more(&self) -> &'static Chunk {
        if let Some(next) = self.next() {
            return next;
        }
        let fresh = Box::into_raw(Box::new(Chunk::new()));
        match self.next.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: the chunk was made above and is leaked.
            Ok(_) => unsafe { &*fresh },
            Err(theirs) => {
                // SAFETY: `fresh` was made above, and no other thread has it. `theirs` was leaked by the thread that
                // was first.
                unsafe {
                    drop(Box::from_raw(fresh));
                    &*theirs
                }
            }
        }
    }
}

static FIRST: Chunk = Chunk::new();
/// The index at which the next search for a free place begins, in any chunk.
static HINT: AtomicUsize = AtomicUsize::new(0);
/// A socket whose other end is closed. It replaces the descriptors in a child.
static DEAD: AtomicI32 = AtomicI32::new(NONE);

/// While this value exists, forked children do not get the descriptor. In a child, the descriptor's number refers to a
/// socket whose other end is closed.
///
/// Drop the `Private` before the descriptor is closed: declare its field before the descriptor's field.
#[derive(Debug)]
#[must_use = "a descriptor is kept from children as long as this lives"]
pub struct Private(&'static AtomicI32);

impl Private {
    /// Registers this descriptor.
    pub fn new(fd: &impl AsFd) -> Private {
        // The first call of `token` registers the fork handler.
        super::here::token();
        make_dead();
        let fd = fd.as_fd().as_raw_fd();
        let from = HINT.load(Ordering::Relaxed);
        let mut chunk = &FIRST;
        loop {
            for i in 0..LEN {
                let i = (from + i) % LEN;
                let place = &chunk.places[i];
                if place.load(Ordering::Relaxed) == NONE
                    && place.compare_exchange(NONE, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    HINT.store(i + 1, Ordering::Relaxed);
                    return Private(place);
                }
            }
            chunk = chunk.more();
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.0.store(NONE, Ordering::Release);
    }
}

fn make_dead() {
    if DEAD.load(Ordering::Acquire) != NONE {
        return;
    }
    // If this process has no descriptor left, the next `Private` tries again.
    let Ok((end, other)) = std::os::unix::net::UnixStream::pair() else { return };
    drop(other);
    let end = OwnedFd::from(end).into_raw_fd();
    if DEAD.compare_exchange(NONE, end, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        // SAFETY: the descriptor was made above, and no other code has it.
        unsafe { libc::close(end) };
    }
}

/// Replaces all registered descriptors in a forked child. Uses only atomic loads and system calls.
pub(super) fn in_child() {
    let dead = DEAD.load(Ordering::Relaxed);
    let mut chunk = Some(&FIRST);
    while let Some(Chunk { places, .. }) = chunk {
        for place in places {
            let fd = place.load(Ordering::Relaxed);
            if fd != NONE && dead != NONE {
                // SAFETY: both are open descriptors of this process, and `fd` stays an open descriptor, so its owner
                // can still close it. `dup3` is allowed in a forked child, see signal-safety(7).
                unsafe { libc::dup3(dead, fd, libc::O_CLOEXEC) };
            }
        }
        chunk = chunk.and_then(Chunk::next);
    }
}
