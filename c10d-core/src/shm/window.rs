//! Memory that one rank writes and that its peers on the same host read in place.
//!
//! The owner passes the descriptor to its peers, and each peer maps the memory read-only ([`admit`]). Then the owner
//! calls [`Window::open_to`]. From then on it may send a peer the place of bytes in the window instead of the bytes. A
//! process unmaps the windows that their owners have freed when it maps another window or drops one of its own.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapMut, MmapOptions, MmapRaw};
use rustix::fs::SealFlags;

use super::memfd::{Memfd, PAGE, zeroed};
use crate::process::{PerProcess, Process, Token, random};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL).union(SealFlags::FUTURE_WRITE);

/// The random name of a window. No two windows have the same name.
pub type Key = u64;

/// The header of a window, in a page of its own before the window's bytes.
#[repr(C)]
struct Header {
    key: AtomicU64,
    /// 0 until the owner frees the window, then 1.
    freed: AtomicU64,
}

/// The place of bytes in a window, which the owner sends to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The name of the window.
    pub key: Key,
    /// The offset of the first byte in the window.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
}

/// A window of this process: memory that peers may read. A forked child does not have it.
pub struct Window {
    map: ManuallyDrop<MmapMut>,
    memory: Memfd,
    key: Key,
    owner: Process,
}

/// A peer's window, mapped read-only.
pub struct PeerWindow {
    map: MmapRaw,
}

/// The windows of this process that were opened to peers, and the windows of peers that this process has mapped.
#[derive(Default)]
struct Windows {
    own: Mutex<Vec<Own>>,
    peers: Mutex<HashMap<Key, Arc<PeerWindow>>>,
}

struct Own {
    at: usize,
    len: usize,
    key: Key,
    readers: Vec<Token>,
}

static WINDOWS: PerProcess<Windows> = PerProcess::new();

impl Window {
    /// Makes a window of `len` zero bytes. No other process can write to it, even with the descriptor. No peer may read
    /// it before [`open_to`](Window::open_to).
    ///
    /// # Errors
    /// `Resource`; the error names the resource that ran out, and its limit.
    pub fn new(len: usize) -> Result<Window> {
        let (map, memory) = zeroed(PAGE.saturating_add(len))?;
        rustix::fs::fcntl_add_seals(memory.as_fd(), SEALS).map_err(|e| {
            let what = "cannot make memory that only one rank can write (this needs Linux 5.1 or newer)";
            Error::new(ErrorKind::Resource, what).caused_by(e)
        })?;
        let key = u64::from_le_bytes(random()?);
        let window = Window { map: ManuallyDrop::new(map), memory, key, owner: Process::current() };
        window.header().key.store(key, Ordering::Release);
        Ok(window)
    }

    /// Returns the name of the window.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Returns the descriptor, for peers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Records that the processes with these tokens have mapped the window by [`admit`]. From then on, [`place`]
    /// returns its places for them.
    pub fn open_to(&self, readers: Vec<Token>) {
        let own = Own { at: self.as_ptr() as usize, len: self.len(), key: self.key, readers };
        WINDOWS.get().own.lock().push(own);
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a page for the header, so the address is valid and aligned. Its fields are
        // atomics.
        unsafe { &*self.map.as_ptr().cast() }
    }

    /// Panics in a forked child, which does not have the window's memory.
    fn check(&self) {
        assert!(self.owner.is_current(), "{}", self.owner.foreign("memory that peers read"));
    }
}

impl Deref for Window {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.check();
        &self.map[PAGE..]
    }
}

impl DerefMut for Window {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.check();
        &mut self.map[PAGE..]
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if !self.owner.is_current() {
            return;
        }
        let windows = WINDOWS.get();
        windows.own.lock().retain(|own| own.key != self.key);
        self.header().freed.store(1, Ordering::Release);
        windows.reap();
        // SAFETY: `drop` runs once, and the map is not used afterwards. This is the process that made the mapping.
        unsafe { ManuallyDrop::drop(&mut self.map) };
    }
}

impl Windows {
    /// Unmaps the windows that their owners have freed.
    fn reap(&self) {
        self.peers.lock().retain(|_, window| window.header().freed.load(Ordering::Acquire) == 0);
    }
}

/// Maps a peer's window until the peer frees it. `len` returns the announced length of the window with this name, or
/// `None` if no peer has announced it.
///
/// # Errors
/// `Protocol` if the descriptor is not that of a window with the announced length; `Resource` if the memory cannot be
/// mapped.
pub fn admit(fd: OwnedFd, len: impl Fn(Key) -> Option<u64>) -> Result {
    let wrong =
        |what: &str| Error::new(ErrorKind::Protocol, format!("the descriptor that a peer passed for a window {what}"));
    let memory = Memfd::from(fd);
    let seals =
        rustix::fs::fcntl_get_seals(memory.as_fd()).map_err(|e| wrong("is not one of shared memory").caused_by(e))?;
    if !seals.contains(SEALS) {
        return Err(wrong("is of memory that others than its owner can write"));
    }
    let size = memory.len().map_err(|e| wrong("has no known size").caused_by(e))?;
    let there = size.checked_sub(PAGE as u64).ok_or_else(|| wrong("is of memory without room for a header"))?;
    let map = MmapOptions::new()
        .len(size as usize)
        .map_raw_read_only(&memory)
        .map_err(|e| Error::new(ErrorKind::Resource, "cannot map the window of a peer").caused_by(e))?;
    let _ = map.advise(memmap2::Advice::HugePage);
    let window = PeerWindow { map };
    let key = window.header().key.load(Ordering::Acquire);
    match len(key) {
        Some(len) if len == there => {}
        Some(len) => return Err(wrong(&format!("is of {there} bytes, but the peer announced {len}"))),
        None => return Err(wrong("is not of a window that a peer announced")),
    }
    let windows = WINDOWS.get();
    windows.reap();
    windows.peers.lock().insert(key, Arc::new(window));
    Ok(())
}

/// Returns the place at which the process with token `reader` finds these `len` bytes. `None` if the bytes are not in
/// one window of this process, or if that window is not open to the reader.
pub fn place(at: *const u8, len: usize, reader: &Token) -> Option<Place> {
    let (at, own) = (at as usize, WINDOWS.get().own.lock());
    let own = own.iter().find(|own| own.at <= at && at.saturating_add(len) <= own.at + own.len)?;
    let place = Place { key: own.key, offset: (at - own.at) as u64, len: len as u64 };
    own.readers.contains(reader).then_some(place)
}

/// Returns the peer's window with this name, if this process has mapped it.
pub fn find(key: Key) -> Option<Arc<PeerWindow>> {
    WINDOWS.get().peers.lock().get(&key).cloned()
}

impl PeerWindow {
    /// Returns the address of the bytes at a place, or `None` if the place is not inside the window. The owner may
    /// write to the bytes at any time, so the ranks must agree by messages when the peer reads.
    pub fn at(&self, place: &Place) -> Option<*const u8> {
        let end = place.offset.checked_add(place.len)?.checked_add(PAGE as u64)?;
        // SAFETY: the offset is not larger than `end`, which is inside the mapping.
        (end <= self.map.len() as u64).then(|| unsafe { self.map.as_ptr().add(PAGE + place.offset as usize) })
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping has at least one page (`admit` checks it), and begins with the header, so the address is
        // valid and aligned. All fields are atomics, so they may change at any time.
        unsafe { &*self.map.as_ptr().cast() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::token;

    #[test]
    fn peers_see_what_the_owner_writes_until_it_frees_it() {
        let mut window = Window::new(10_000).unwrap();
        let key = window.key();
        admit(window.fd().try_clone_to_owned().unwrap(), |k| (k == key).then_some(10_000)).unwrap();
        let me = token().unwrap();
        assert_eq!(place(window.as_ptr(), 1, &me), None);
        window.open_to(vec![me]);
        window[7_000] = 9;
        let there = place(&window[7_000], 3_000, &me).unwrap();
        assert_eq!(there, Place { key, offset: 7_000, len: 3_000 });
        assert_eq!(place(&window[7_000], 3_001, &me), None);
        assert_eq!(place(&window[7_000], 3_000, &[1; 16]), None);
        let peer = find(key).unwrap();
        let at = peer.at(&there).unwrap();
        // SAFETY: `at` is valid for 3000 bytes, and no thread writes to them now.
        assert_eq!(unsafe { at.read() }, 9);
        for bad in
            [Place { len: 3_001, ..there }, Place { offset: u64::MAX, ..there }, Place { len: u64::MAX, ..there }]
        {
            assert_eq!(peer.at(&bad), None);
        }
        let old = window.as_ptr();
        drop(window);
        assert!(find(key).is_none() && place(old, 1, &me).is_none());
    }

    #[test]
    fn windows_that_others_can_write_are_rejected() {
        let of = |fd: BorrowedFd<'_>, len| {
            admit(fd.try_clone_to_owned().unwrap(), |_| len).unwrap_err().report().what.clone()
        };
        let window = Window::new(100).unwrap();
        assert!(of(window.fd(), Some(99)).contains("is of 100 bytes, but the peer announced 99"));
        assert!(of(window.fd(), None).contains("is not of a window that a peer announced"));
        let open = zeroed(PAGE).unwrap().1;
        assert!(of(open.as_fd(), Some(0)).contains("that others than its owner can write"));
        let fd = window.fd().try_clone_to_owned().unwrap();
        // SAFETY: the kernel refuses a writable mapping of sealed memory.
        assert!(unsafe { MmapOptions::new().map_mut(&fd) }.is_err());
    }
}
