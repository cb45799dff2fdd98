//! Payload that stays where it is: in place of bytes that lie in memory which the peer can read (a window), the ring has a
//! record that says where. The writer comes no further before the peer has read them, so that whoever gets its buffer back
//! may write to it.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;

use c10d_core::process::Token;
use c10d_core::shm::{PeerWindow, Place, find, place};

use super::segment::{Layout, RingKind};

/// Bytes of a record.
pub(super) const RECORD: usize = 24;
/// Fewer bytes of a collective are copied: that is over sooner.
const LEAST: usize = 32 << 10;
/// How much is copied before other steps get their turn.
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

/// What the writing end of a ring lends.
pub(super) struct Lender {
    /// Who can read it; `None`: nobody.
    pub(super) reader: Option<Token>,
    /// Fewer bytes are copied.
    least: usize,
    /// How many bytes are lent, and the ring's position at which they have been read.
    pub(super) out: Option<(usize, u64)>,
}

impl Lender {
    /// To nobody yet. What fits into a ring between messages is copied, so that whoever sends need not wait.
    pub(super) fn new(kind: RingKind) -> Lender {
        let least = match kind {
            RingKind::Collective => LEAST,
            RingKind::PointToPoint => 2 * Layout::POINT_TO_POINT,
        };
        Lender { reader: None, least, out: None }
    }

    /// What stands for these bytes, if the peer can read them where they are.
    #[inline]
    pub(super) fn record(&self, at: *const u8, len: usize) -> Option<[u8; RECORD]> {
        if len < self.least { None } else { place(at, len, self.reader.as_ref()?).map(|place| to_bytes(&place)) }
    }
}

/// What the reading end of a ring has been lent, and has not read.
pub(super) struct Borrowed {
    at: *const u8,
    left: usize,
    /// Keeps the memory mapped.
    _window: Arc<PeerWindow>,
}

// SAFETY: the pointer leads into the window, which is kept; whoever has this reads there, and nobody writes.
unsafe impl Send for Borrowed {}

impl Borrowed {
    /// What this record stands for; `None`: nothing that this process has been let read.
    pub(super) fn of(record: &[u8; RECORD]) -> Option<Borrowed> {
        let place = from_bytes(record);
        let window = find(place.key)?;
        let at = window.at(&place)?;
        (place.len > 0).then_some(Borrowed { at, left: place.len as usize, _window: window })
    }

    pub(super) fn shown(&self) -> (*const u8, usize) {
        (self.at, self.left)
    }

    /// Copies some of the bytes, and says how many.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    pub(super) unsafe fn copy(&self, to: *mut u8, len: usize) -> usize {
        let n = len.min(self.left).min(CHUNK);
        // SAFETY: `n` bytes are left; `to` is no memory of the peer's.
        unsafe { ptr::copy_nonoverlapping(self.at, to, n) };
        n
    }

    /// The first `n` bytes have been read; whether all have.
    pub(super) fn advance(&mut self, n: usize) -> bool {
        debug_assert!(n <= self.left);
        self.left -= n;
        // SAFETY: at most the end of what was lent.
        self.at = unsafe { self.at.add(n) };
        self.left == 0
    }
}

#[cfg(test)]
#[path = "lent_tests.rs"]
mod tests;
