//! Descriptors that forked children do not keep.
//!
//! Closing on exec does not help against a child that never calls exec: while it has a copy, the peer sees no end of
//! the connection. So a child replaces each copy by a dead descriptor. The numbers stay in use, so that a value that
//! the child inherited, and may drop, still refers to a descriptor of the child.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

const NONE: i32 = -1;
const LEN: usize = 1020;

/// Places for descriptors. They need no lock, since a child could not open one.
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
        // SAFETY: set once, by `more`, to a leaked chunk.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    /// The next chunk, which is made if it does not exist.
    fn more(&self) -> &'static Chunk {
        if let Some(next) = self.next() {
            return next;
        }
        let fresh = Box::into_raw(Box::new(Chunk::new()));
        match self.next.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: leaked here.
            Ok(_) => unsafe { &*fresh },
            Err(theirs) => {
                // SAFETY: made above, and nobody else saw it; the other one is leaked by the thread that was first.
                unsafe {
                    drop(Box::from_raw(fresh));
                    &*theirs
                }
            }
        }
    }
}

static FIRST: Chunk = Chunk::new();
/// Where the last free place was found.
static HINT: AtomicUsize = AtomicUsize::new(0);
/// A socket whose other end is closed: it takes the place of the copies in a child.
static DEAD: AtomicI32 = AtomicI32::new(NONE);

/// Keeps a descriptor out of forked children while this value lives. In a child, its number refers to a socket whose
/// other end is closed.
///
/// Drop it before the descriptor is closed: declare its field before that of the descriptor.
#[derive(Debug)]
#[must_use = "a descriptor is kept from children as long as this lives"]
pub struct Private(&'static AtomicI32);

impl Private {
    /// Of this descriptor.
    pub fn new(fd: &impl AsFd) -> Private {
        // The handler is set with the first token.
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
    // No descriptor is left; the next call tries again.
    let Ok((end, other)) = std::os::unix::net::UnixStream::pair() else { return };
    drop(other);
    let end = OwnedFd::from(end).into_raw_fd();
    if DEAD.compare_exchange(NONE, end, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        // SAFETY: this function's own, and nobody has seen it.
        unsafe { libc::close(end) };
    }
}

/// Replaces all of them in a forked child. It uses only loads and system calls.
pub(super) fn in_child() {
    let dead = DEAD.load(Ordering::Relaxed);
    let mut chunk = Some(&FIRST);
    while let Some(Chunk { places, .. }) = chunk {
        for place in places {
            let fd = place.load(Ordering::Relaxed);
            if fd != NONE && dead != NONE {
                // SAFETY: both are descriptors of this process; whoever has the number goes on having one. `dup3` may be
                // called here, see signal-safety(7).
                unsafe { libc::dup3(dead, fd, libc::O_CLOEXEC) };
            }
        }
        chunk = chunk.and_then(Chunk::next);
    }
}
