//! Memory that one rank writes, and that its peers on the host read where it lies.
//!
//! Its owner registers it with whom it lets read; its peers have it mapped read-only from before that until the owner has
//! freed it. So the owner can say of bytes in it where they are, instead of copying them.
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

/// A window's name: random, so that no other has it.
pub type Key = u64;

/// In front of a window's bytes, in a page of its own.
#[repr(C)]
struct Header {
    key: AtomicU64,
    /// Not 0: its owner has no use for it any more.
    freed: AtomicU64,
}

/// Where bytes are that a peer can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In this window,
    pub key: Key,
    /// so many bytes from its beginning,
    pub offset: u64,
    /// and so many.
    pub len: u64,
}

/// Memory of this rank that others may read. A forked child does not have it.
pub struct Window {
    map: ManuallyDrop<MmapMut>,
    memory: Memfd,
    key: Key,
    owner: Process,
}

/// A peer's window, as it is mapped here.
pub struct PeerWindow {
    map: MmapRaw,
}

/// The windows that this process has, or can read.
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
    /// Of so many bytes, all zeros, which nobody else can write, whoever gets the descriptor. Nobody reads it yet.
    ///
    /// # Errors
    /// `Resource`, with what ran out and its limit.
    pub fn new(len: usize) -> Result<Window> {
        let (map, memory) = zeroed(PAGE.saturating_add(len))?;
        rustix::fs::fcntl_add_seals(memory.as_fd(), SEALS).map_err(|e| {
            let what = "memory that only one rank can write is not to be had (kernels before 5.1 have none)";
            Error::new(ErrorKind::Resource, what).caused_by(e)
        })?;
        let key = u64::from_le_bytes(random()?);
        let window = Window { map: ManuallyDrop::new(map), memory, key, owner: Process::current() };
        window.header().key.store(key, Ordering::Release);
        Ok(window)
    }

    /// Its name.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The descriptor, for peers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// These processes have mapped it, see [`admit`].
    pub fn open_to(&self, readers: Vec<Token>) {
        let own = Own { at: self.as_ptr() as usize, len: self.len(), key: self.key, readers };
        WINDOWS.get().own.lock().push(own);
    }

    fn header(&self) -> &Header {
        // SAFETY: the map begins with a page for the header, which is atomics alone.
        unsafe { &*self.map.as_ptr().cast() }
    }

    /// A child's copy of the owner has no memory behind it.
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
        // SAFETY: once, in the process that made it.
        unsafe { ManuallyDrop::drop(&mut self.map) };
    }
}

impl Windows {
    /// Unmaps what the peers have freed.
    fn reap(&self) {
        self.peers.lock().retain(|_, window| window.header().freed.load(Ordering::Acquire) == 0);
    }
}

/// Maps a peer's window, for as long as the peer has it. `len` knows how many bytes the window of a key has, if a peer said so.
///
/// # Errors
/// `Protocol` if it is none; `Resource` if it finds no room.
pub fn admit(fd: OwnedFd, len: impl Fn(Key) -> Option<u64>) -> Result {
    let wrong = |what: &str| Error::new(ErrorKind::Protocol, format!("the peer's memory {what}"));
    let memory = Memfd::from(fd);
    let seals = rustix::fs::fcntl_get_seals(memory.as_fd()).map_err(|e| wrong("is none").caused_by(e))?;
    if !seals.contains(SEALS) {
        return Err(wrong("can be written by others than its owner"));
    }
    let size = memory.len().map_err(|e| wrong("has no size").caused_by(e))?;
    let there = size.checked_sub(PAGE as u64).ok_or_else(|| wrong("is too small"))?;
    let map = MmapOptions::new()
        .len(size as usize)
        .map_raw_read_only(&memory)
        .map_err(|e| Error::new(ErrorKind::Resource, "a peer's memory cannot be mapped").caused_by(e))?;
    let _ = map.advise(memmap2::Advice::HugePage);
    let window = PeerWindow { map };
    let key = window.header().key.load(Ordering::Acquire);
    match len(key) {
        Some(len) if len == there => {}
        Some(len) => return Err(wrong(&format!("has {there} bytes, not {len}"))),
        None => return Err(wrong("is not what it said")),
    }
    let windows = WINDOWS.get();
    windows.reap();
    windows.peers.lock().insert(key, Arc::new(window));
    Ok(())
}

/// Where a peer's process finds these bytes, if it can read them.
pub fn place(at: *const u8, len: usize, reader: &Token) -> Option<Place> {
    let (at, own) = (at as usize, WINDOWS.get().own.lock());
    let own = own.iter().find(|own| own.at <= at && at.saturating_add(len) <= own.at + own.len)?;
    let place = Place { key: own.key, offset: (at - own.at) as u64, len: len as u64 };
    own.readers.contains(reader).then_some(place)
}

/// The window of this name, if this process can read it.
pub fn find(key: Key) -> Option<Arc<PeerWindow>> {
    WINDOWS.get().peers.lock().get(&key).cloned()
}

impl PeerWindow {
    /// Where the bytes of a place are. Their owner may write them at any time: only what ranks tell each other says when
    /// they are what they should be. `None`: it has not so many.
    pub fn at(&self, place: &Place) -> Option<*const u8> {
        let end = place.offset.checked_add(place.len)?.checked_add(PAGE as u64)?;
        // SAFETY: below the end, which is inside the map.
        (end <= self.map.len() as u64).then(|| unsafe { self.map.as_ptr().add(PAGE + place.offset as usize) })
    }

    fn header(&self) -> &Header {
        // SAFETY: the map begins with a page for the header, which is atomics alone, whoever writes them.
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
        // SAFETY: nobody writes it now.
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
    fn what_others_could_write_is_refused() {
        let of = |fd: BorrowedFd<'_>, len| {
            admit(fd.try_clone_to_owned().unwrap(), |_| len).unwrap_err().report().what.clone()
        };
        let window = Window::new(100).unwrap();
        assert!(of(window.fd(), Some(99)).contains("has 100 bytes, not 99"));
        assert!(of(window.fd(), None).contains("is not what it said"));
        let open = zeroed(PAGE).unwrap().1;
        assert!(of(open.as_fd(), Some(0)).contains("can be written by others"));
        let fd = window.fd().try_clone_to_owned().unwrap();
        // SAFETY: it is refused.
        assert!(unsafe { MmapOptions::new().map_mut(&fd) }.is_err());
    }
}
