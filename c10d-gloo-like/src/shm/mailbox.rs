//! Slots for small items, beside a ring. The word that announces an item is in the same cache line as the beginning of
//! the item. So the reader of a small item loads one cache line. With a ring, it would load two. An item that does not
//! fit, or finds no free slot, goes through the ring.
//!
//! Both ends count the items of the mailbox. Each slot records the line of the ring (64 bytes, see
//! [`ring`](super::ring)) at which its item would have begun. So the items of the mailbox and of the ring together are
//! one sequence.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use c10d_core::{Error, ErrorKind, Phase, Result};

use super::segment::{RingKind, Segment};
use super::slots::{MOST, Slot, Taken, Word};

/// The size of a cache line in bytes.
const LINE: usize = 64;

/// The common part of the writing end and the reading end.
struct End {
    taken: *const Taken,
    first: *const Slot,
    /// The number of slots, a power of two.
    slots: u32,
    /// The number of items that this end has written, or taken, so far (low 32 bits).
    count: u32,
    peer: u32,
    /// Keeps the memory mapped.
    _segment: Arc<Segment>,
}

// SAFETY: the pointers lead into the mapping that `_segment` keeps: to atomics, and to bytes that belong to one end at
// a time according to the atomics. Each end is used through `&mut self`.
unsafe impl Send for End {}

impl End {
    fn new(segment: Arc<Segment>, index: usize, kind: RingKind, peer: u32) -> End {
        let (taken, slots) = segment.mailbox(index, kind);
        // SAFETY: the slots follow the count in the segment.
        let first = unsafe { taken.add(1) }.cast();
        End { taken, first, slots, count: 0, peer, _segment: segment }
    }

    fn taken(&self) -> &AtomicU32 {
        // SAFETY: the pointer is valid as long as the segment, which `_segment` keeps.
        unsafe { &(*self.taken).0 }
    }

    /// Returns the word and the bytes of the next item's slot.
    #[inline]
    fn next(&self) -> (&AtomicU64, *mut u8) {
        let at = (self.count & (self.slots - 1)) as usize;
        // SAFETY: the pointer is valid as long as the segment, which `_segment` keeps. `at` is less than the number of
        // slots, and no reference to the bytes is made.
        unsafe {
            let slot = self.first.add(at);
            (&(*slot).word, (&raw const (*slot).bytes).cast::<u8>().cast_mut())
        }
    }

    #[cold]
    fn corrupt(&self, what: &str, value: u64) -> Error {
        let what = format!("a shared mailbox has the impossible {what} {value:#x} after {} items", self.count);
        Error::new(ErrorKind::Protocol, what).guilty([self.peer]).phase(Phase::Transfer)
    }
}

/// The writing end.
pub(super) struct Writer {
    end: End,
    /// The number of items that the reader has taken, as this end last read it.
    taken: u32,
}

impl Writer {
    /// Makes the end that writes to `peer`. The mailbox is in this rank's segment, at the peer's index.
    pub(super) fn new(own: Arc<Segment>, index: usize, kind: RingKind, peer: u32) -> Writer {
        Writer { end: End::new(own, index, kind, peer), taken: 0 }
    }

    /// Writes an item that would begin at this line of the ring. Returns `false` if the item is empty or does not fit,
    /// or if no slot is free.
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline(always)]
    pub(super) unsafe fn write(&mut self, line: u64, head: &[u8], body: *const u8, len: usize) -> Result<bool> {
        let total = head.len() + len;
        if total == 0
            || total > MOST
            || self.end.count.wrapping_sub(self.taken) >= self.end.slots && !self.has_room()?
        {
            return Ok(false);
        }
        let (word, bytes) = self.end.next();
        // The reader's core has all lines of the slot. This core requests the lines of a longer item together, and not
        // one after the other as it writes to them.
        for line in (2 * LINE..total).step_by(LINE) {
            prefetch_for_write(bytes.wrapping_add(line));
        }
        // SAFETY: the slot is free, so the reader does not read it, and has room for `MOST` bytes.
        unsafe {
            ptr::copy_nonoverlapping(head.as_ptr(), bytes, head.len());
            ptr::copy_nonoverlapping(body, bytes.add(head.len()), len);
        }
        let number = self.end.count.wrapping_add(1);
        word.store(Word { number, len: total as u16, line: line as u16 }.pack(), Ordering::Release);
        self.end.count = number;
        Ok(true)
    }

    /// Prefetches the cache line of the next slot, so that the next write need not wait until the reader's core has
    /// released this line. If the peer also sends items to this rank, this costs more than it saves: the peer soon
    /// waits for this rank's next item, polls the line, and so fetches it back.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch_for_write(self.end.next().1);
    }

    #[cold]
    fn has_room(&mut self) -> Result<bool> {
        let taken = self.end.taken().load(Ordering::Acquire);
        let (advanced, waiting) = (taken.wrapping_sub(self.taken), self.end.count.wrapping_sub(taken));
        if advanced > self.end.slots || waiting > self.end.slots {
            return Err(self.end.corrupt("count of items taken", taken.into()));
        }
        self.taken = taken;
        Ok(waiting < self.end.slots)
    }
}

/// Makes the processor fetch the cache line at this address, in order to write to it.
#[inline]
fn prefetch_for_write(at: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is a hint, which changes neither memory nor registers, for any address.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The reading end.
pub(super) struct Reader {
    end: End,
    /// The length of the item that is being read, and how many of its bytes are done.
    len: usize,
    done: usize,
}

impl Reader {
    /// Makes the end that reads from `peer`. The mailbox is in the peer's segment, at this rank's index.
    pub(super) fn new(theirs: Arc<Segment>, index: usize, kind: RingKind, peer: u32) -> Reader {
        Reader { end: End::new(theirs, index, kind, peer), len: 0, done: 0 }
    }

    /// Returns the rest of the item that begins at this line of the ring, if the mailbox has this item. The bytes stay
    /// until they are consumed.
    #[inline]
    pub(super) fn peek(&mut self, line: u64) -> Result<Option<(*const u8, usize)>> {
        let (word, bytes) = self.end.next();
        if self.done == 0 {
            let seen = word.load(Ordering::Acquire);
            let Word { number, len, line: at } = Word::unpack(seen);
            if number != self.end.count.wrapping_add(1) {
                // The slot still has an earlier item, or has never had one.
                let before = self.end.count.wrapping_add(1).wrapping_sub(self.end.slots);
                return if number == before || number == 0 { Ok(None) } else { Err(self.end.corrupt("word", seen)) };
            }
            self.len = len.into();
            // A ring has far fewer than 2^15 lines. So if the difference modulo 2^16 is larger than that, the item
            // would begin before the reader's position, which is impossible.
            if self.len > MOST || self.len == 0 || at.wrapping_sub(line as u16) > u16::MAX / 2 {
                return Err(self.end.corrupt("word", seen));
            }
            if at != line as u16 {
                return Ok(None);
            }
        }
        // SAFETY: `done` is below `len`, which is at most `MOST`.
        Ok(Some((unsafe { bytes.add(self.done) }, self.len - self.done)))
    }

    /// Returns the item that begins at this line of the ring, if it has arrived in the mailbox and has `len` bytes. The
    /// bytes stay until they are consumed. This is faster than [`peek`](Reader::peek), since it compares one word.
    #[inline]
    pub(super) fn peek_exact(&mut self, line: u64, len: usize) -> Option<*const u8> {
        let (word, bytes) = self.end.next();
        let expected = Word { number: self.end.count.wrapping_add(1), len: len as u16, line: line as u16 };
        if len > MOST || self.done > 0 || word.load(Ordering::Acquire) != expected.pack() {
            return None;
        }
        self.len = len;
        Some(bytes)
    }

    /// Consumes the first `n` of the shown bytes. Returns whether the number of taken items was published. If it was,
    /// the writer may be waiting for this number.
    #[inline]
    pub(super) fn consume(&mut self, n: usize) -> bool {
        self.done += n;
        debug_assert!(self.done <= self.len);
        if n == 0 || self.done < self.len {
            return false;
        }
        self.done = 0;
        self.end.count = self.end.count.wrapping_add(1);
        // The number is published only twice per round of the slots, so that its cache line moves less often.
        let publishes = self.end.count & (self.end.slots / 2 - 1) == 0;
        if publishes {
            self.end.taken().store(self.end.count, Ordering::Release);
        }
        publishes
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
