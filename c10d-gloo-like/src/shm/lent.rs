//! Lending of bytes. If payload is in memory that the peer can read (a window, or private memory if the system allows
//! it), a rank does not copy the payload into the ring. The rank writes only a record into the ring, with the position
//! of the bytes, and waits until the peer has read the bytes. A record can also stand for an item in the rank's
//! multicast ring.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::process::Token;
use c10d_core::shm::{PeerWindow, Place, find, place};

use super::copy::copy;
use super::peer_memory::PeerMemory;
use super::segment::{Layout, RingKind};

/// The size of a record in bytes.
pub(super) const RECORD: usize = 24;
/// The smallest number of bytes of a collective that is lent. Fewer bytes are copied through the ring.
const LEAST: usize = 32 << 10;
/// The largest number of lent bytes that a rank copies before it continues with other steps.
const CHUNK: usize = 256 << 10;

fn to_bytes(place: &Place) -> [u8; RECORD] {
    let numbers = [place.key, place.offset, place.len].map(u64::to_le_bytes);
    let mut bytes = [0; RECORD];
    bytes.copy_from_slice(numbers.as_flattened());
    bytes
}

fn from_bytes(bytes: &[u8; RECORD]) -> Place {
    let number = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| bytes[8 * i + j]));
    Place { key: number(0), offset: number(1), len: number(2) }
}

/// The key of bytes that are not in a window. Their offset is their address in the writer's process.
const PRIVATE: u64 = 0;
/// The key of bytes in the writer's multicast ring. Their offset is their position in this ring.
const MULTICAST: u64 = 1;

/// Returns the record of an item in this rank's multicast ring.
pub(super) fn multicast_record(start: u64, len: usize) -> [u8; RECORD] {
    to_bytes(&Place { key: MULTICAST, offset: start, len: len as u64 })
}

/// Returns the position and the length of the item in the writer's multicast ring for which this record stands; `None`
/// if the record stands for other bytes.
pub(super) fn multicast_item(record: &[u8; RECORD]) -> Option<(u64, usize)> {
    let place = from_bytes(record);
    (place.key == MULTICAST && place.len > 0).then_some((place.offset, place.len as usize))
}

/// Which bytes a link may lend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lend {
    /// No bytes, for plans that overwrite bytes that they send (`Plan::overwrites_sent`).
    Nothing,
    Windows,
    /// Bytes of windows and of private memory. The peer must not reduce the bytes.
    All,
}

/// Bytes that are lent now.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) len: usize,
    /// The position in the ring that the reader passes when it has read the bytes.
    pub(super) end: u64,
    /// Whether the bytes are in private memory.
    pub(super) private: bool,
}

/// The part of a ring's writing end that lends bytes.
pub(super) struct Lender {
    /// The process that can read windows. If it is `None`, no bytes of windows are lent.
    pub(super) reader: Option<Token>,
    /// The smallest number of bytes that is lent.
    least: usize,
    pub(super) out: Option<Out>,
    /// The position in the ring after the record of the last multicast. A ring has at most one record at a time.
    pub(super) multicast_end: u64,
    /// Whether the peer has refused bytes of private memory. If it has, no private memory is lent any more.
    pub(super) refused: bool,
}

impl Lender {
    /// Makes a lender without a reader. Short point-to-point messages are never lent, so that their sender need not
    /// wait for the receiver.
    pub(super) fn new(kind: RingKind) -> Lender {
        let least = match kind {
            RingKind::Collective | RingKind::Multicast => LEAST,
            RingKind::PointToPoint => 2 * Layout::POINT_TO_POINT,
        };
        Lender { reader: None, least, out: None, multicast_end: 0, refused: false }
    }

    /// Returns the record that stands for these bytes in the ring, and whether they are in private memory. Returns
    /// `None` if there are too few bytes to be lent, or if the peer cannot read them in place. `reads_private` tells
    /// whether the peer can read private memory.
    #[inline]
    pub(super) fn record(
        &self,
        at: *const u8,
        len: usize,
        lend: Lend,
        reads_private: impl FnOnce() -> bool,
    ) -> Option<([u8; RECORD], bool)> {
        if len < self.least || lend == Lend::Nothing {
            return None;
        }
        if let Some(place) = self.reader.as_ref().and_then(|reader| place(at, len, reader)) {
            return Some((to_bytes(&place), false));
        }
        let place = Place { key: PRIVATE, offset: at as u64, len: len as u64 };
        (lend == Lend::All && !self.refused && reads_private()).then(|| (to_bytes(&place), true))
    }
}

/// Lent bytes that the reading end of a ring has not read yet.
pub(super) struct Borrowed {
    /// The address of the next byte: in this process if the bytes are in a window, otherwise in the peer's process.
    at: usize,
    left: usize,
    /// Keeps the memory mapped; `None` for private memory.
    window: Option<Arc<PeerWindow>>,
}

impl Borrowed {
    /// Returns the bytes for which this record stands. Returns `None` if there are no bytes, or if this process may not
    /// read them. `reads_private` tells whether this process may read private memory of the peer.
    pub(super) fn of(record: &[u8; RECORD], reads_private: bool) -> Option<Borrowed> {
        let place = from_bytes(record);
        let (at, window) = if place.key == PRIVATE {
            reads_private.then_some((place.offset as usize, None))?
        } else {
            let window = find(place.key)?;
            (window.at(&place)? as usize, Some(window))
        };
        (place.len > 0).then_some(Borrowed { at, left: place.len as usize, window })
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Returns the bytes, if they are in a window.
    pub(super) fn shown(&self) -> Option<(*const u8, usize)> {
        self.window.is_some().then_some((self.at as *const u8, self.left))
    }

    /// Copies as many of the bytes as fit into `to`, but at most `CHUNK` bytes. With `past_cache`, the copy bypasses
    /// the cache. Returns the number of bytes, or `None` if the bytes cannot be read.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes, and no other code uses them.
    pub(super) unsafe fn copy(
        &self,
        memory: Option<&PeerMemory>,
        to: *mut u8,
        len: usize,
        past_cache: bool,
    ) -> Option<usize> {
        let n = len.min(self.left).min(CHUNK);
        if self.window.is_some() {
            // SAFETY: at least `n` bytes are left in the window. `to` is memory of this rank, and the lent bytes are
            // memory of the peer, so they do not overlap.
            unsafe { copy(self.at as *const u8, to, n, past_cache) };
            return Some(n);
        }
        // SAFETY: the caller guarantees that `to` is writable.
        unsafe { memory?.read(self.at, to, n) }.then_some(n)
    }

    /// Skips the first `n` bytes, which have been read. Returns whether all bytes have been read now.
    pub(super) fn advance(&mut self, n: usize) -> bool {
        debug_assert!(n <= self.left);
        self.left -= n;
        self.at += n;
        self.left == 0
    }
}

#[cfg(test)]
#[path = "lent_tests.rs"]
mod tests;
