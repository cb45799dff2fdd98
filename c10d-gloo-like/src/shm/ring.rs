//! A ring of bytes with one writer and one reader, in memory that both map. A multicast ring ([`super::multicast`])
//! consists of several such rings, whose bytes are the same.
//!
//! Positions count bytes since the start and never wrap around. Each end checks the other end's position against
//! limits. The ring consists of lines of [`LINE`] bytes. An item begins at the start of a line.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use c10d_core::{Error, ErrorKind, Phase, Result};

use super::copy::{Stores, copy};
use super::cursors::Cursors;
use super::lent::RECORD;
use super::segment::{RingKind, Segment};

/// The length of a line in bytes, which is the alignment of items.
pub(super) const LINE: u64 = 64;
/// The size of the pieces in which a write of up to [`LONG`] bytes is published. The reader copies a piece while the
/// writer writes the next one.
const PIECE: usize = 16 << 10;
/// The same for a point-to-point message of up to [`BRIEF`] bytes, which its receiver copies while it arrives.
const BRIEF_PIECE: usize = 2 << 10;
/// The largest number of bytes of a message that is sent and received at once (`p2p::at_once`).
pub(crate) const BRIEF: usize = 16 << 10;
/// The size of the pieces of a longer write.
const LARGE_PIECE: usize = 32 << 10;
/// The largest number of bytes of a write that is published in pieces of [`PIECE`] bytes.
const LONG: usize = 128 << 10;

/// The common part of the writing end and the reading end.
struct End {
    cursors: *const Cursors,
    data: *mut u8,
    capacity: u64,
    /// This end's position.
    at: u64,
    /// The other end's position, as last read.
    other: u64,
    peer: u32,
    /// Keeps the memory mapped.
    _segment: Arc<Segment>,
}

// SAFETY: the pointers lead into the mapping that `_segment` keeps: to atomics, and to bytes that belong to one end at
// a time according to the cursors. Each end is used through `&mut self`.
unsafe impl Send for End {}

impl End {
    fn new(segment: Arc<Segment>, index: usize, kind: RingKind, peer: u32) -> End {
        let (cursors, data, capacity) = segment.ring(index, kind);
        End { cursors, data, capacity: capacity as u64, at: 0, other: 0, peer, _segment: segment }
    }

    fn cursors(&self) -> &Cursors {
        // SAFETY: the pointer is valid as long as the segment, which `_segment` keeps; a cursor consists of atomics.
        unsafe { &*self.cursors }
    }

    /// Returns the line at this end's position; `None` if the position is inside a line.
    #[inline]
    fn line(&self) -> Option<u64> {
        self.at.is_multiple_of(LINE).then_some(self.at / LINE)
    }

    /// Returns the address of this end's position, and the number of bytes up to the ring's end.
    fn here(&self) -> (*mut u8, usize) {
        let offset = self.at & (self.capacity - 1);
        // SAFETY: `offset < capacity`.
        (unsafe { self.data.add(offset as usize) }, (self.capacity - offset) as usize)
    }

    #[cold]
    fn corrupt(&self, which: &str, value: u64) -> Error {
        let (at, seen, capacity) = (self.at, self.other, self.capacity);
        let what = format!(
            "the {which} of a shared ring has the impossible value {value} (own position {at}, last {which} {seen}, \
             capacity {capacity})"
        );
        Error::new(ErrorKind::Protocol, what).guilty([self.peer]).phase(Phase::Transfer)
    }
}

pub(super) struct Writer {
    end: End,
    stores: Stores,
    kind: RingKind,
}

pub(super) struct Reader {
    end: End,
    /// The position that was published to the writer.
    published: u64,
}

impl Writer {
    /// Makes the end that writes to `peer`. The ring is in this rank's segment, at the peer's index.
    pub(super) fn new(own: Arc<Segment>, index: usize, kind: RingKind, peer: u32) -> Writer {
        Writer { end: End::new(own, index, kind, peer), stores: Stores::new(), kind }
    }

    /// Returns how many of `want` bytes fit into the free room.
    #[inline]
    pub(super) fn free(&mut self, want: usize) -> Result<usize> {
        let end = &mut self.end;
        let free = end.capacity.saturating_sub(end.at - end.other);
        if free >= want as u64 {
            return Ok(want);
        }
        self.look()?;
        let end = &self.end;
        Ok(want.min(end.capacity.saturating_sub(end.at - end.other) as usize))
    }

    fn look(&mut self) -> Result {
        let end = &mut self.end;
        let tail = end.cursors().tail.at.load(Ordering::Acquire);
        // The reader's position may exceed the writer's position only by the padding after the last item.
        if tail < end.other || tail > end.at.next_multiple_of(LINE) {
            return Err(end.corrupt("tail", tail));
        }
        end.other = tail.min(end.at);
        Ok(())
    }

    /// Appends `head` and a record that stands for lent bytes, if there is room for both, and publishes them. Returns
    /// the position after the record, or `None` if there is no room.
    pub(super) fn lend(&mut self, head: &[u8], record: &[u8; RECORD]) -> Result<Option<u64>> {
        let want = head.len() + RECORD;
        if self.free(want)? < want {
            return Ok(None);
        }
        // SAFETY: the pointers and lengths are those of slices, and there is room for both.
        unsafe {
            self.put(head.as_ptr(), head.len());
            self.end.cursors().head.1.store(self.end.at + 1, Ordering::Release);
            self.put(record.as_ptr(), RECORD);
        }
        self.publish();
        Ok(Some(self.end.at))
    }

    /// Whether the reader has passed the record that ends at the position `at`.
    pub(super) fn is_passed(&mut self, at: u64) -> Result<bool> {
        if self.end.other < at {
            self.look()?;
        }
        Ok(self.end.other >= at)
    }

    /// Returns `None` until the reader has passed the last record, which ends at the position `at`. Afterwards returns
    /// how many of the `lent` bytes for which the record stands were refused by the reader.
    pub(super) fn refused(&mut self, at: u64, lent: usize) -> Result<Option<usize>> {
        if !self.is_passed(at)? {
            return Ok(None);
        }
        let refused = self.end.cursors().tail.refused.load(Ordering::Relaxed);
        match usize::try_from(refused) {
            Ok(refused) if refused <= lent => Ok(Some(refused)),
            _ => Err(self.end.corrupt("number of refused bytes", refused)),
        }
    }

    /// Whether the reader can read private memory of this process.
    #[inline]
    pub(super) fn reads_private(&self) -> bool {
        self.end.cursors().tail.reads_private.load(Ordering::Relaxed) != 0
    }

    /// Appends `head` and the `len` bytes at `body`, or as many of these bytes as fit, and publishes them. Returns the
    /// number of appended bytes.
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline]
    pub(super) unsafe fn write(&mut self, head: &[u8], body: *const u8, len: usize) -> Result<usize> {
        let take = self.free(head.len() + len)?;
        if take == 0 {
            return Ok(0);
        }
        let first = take.min(head.len());
        let piece = match self.kind {
            RingKind::PointToPoint if len <= BRIEF => BRIEF_PIECE,
            _ if len <= LONG => PIECE,
            _ => LARGE_PIECE,
        };
        // SAFETY: both sources are readable for the bytes that are taken of them.
        unsafe {
            self.put(head.as_ptr(), first);
            let (mut done, rest) = (0, take - first);
            while done < rest {
                // Pieces end at line boundaries of the ring.
                let to_line = (LINE - self.end.at % LINE) as usize % LINE as usize;
                let n = (rest - done).min(piece + to_line);
                self.put(body.add(done), n);
                done += n;
                if done < rest {
                    self.publish();
                }
            }
        }
        self.publish();
        Ok(take)
    }

    /// Copies `n` bytes, for which there is room, to this end's position and advances this position.
    ///
    /// # Safety
    /// `from` is readable for `n` bytes.
    #[inline]
    unsafe fn put(&mut self, from: *const u8, n: usize) {
        let (here, until_end) = self.end.here();
        let first = n.min(until_end);
        // SAFETY: `here` has `until_end` bytes, and the ring has `capacity >= n`. The reader does not touch free room.
        unsafe {
            self.stores.copy(from, here, first);
            if first < n {
                self.stores.copy(from.add(first), self.end.data, n - first);
            }
        }
        self.end.at += n as u64;
    }

    fn publish(&self) {
        self.end.cursors().head.0.store(self.end.at, Ordering::Release);
    }

    /// Ends the item: the next item begins at a new line.
    #[inline]
    pub(super) fn end(&mut self) {
        self.end.at = self.end.at.next_multiple_of(LINE);
    }

    #[inline]
    pub(super) fn line(&self) -> Option<u64> {
        self.end.line()
    }

    /// Returns this end's position.
    pub(super) fn at(&self) -> u64 {
        self.end.at
    }

    /// Returns the reader's position as it is now.
    pub(super) fn reader_at(&mut self) -> Result<u64> {
        if self.end.other < self.end.at {
            self.look()?;
        }
        Ok(self.end.other)
    }

    /// Moves this end to the position `at`, which is not before its present position, and publishes it. The bytes up to
    /// `at` are in the ring, or are of no use to the reader.
    pub(super) fn move_to(&mut self, at: u64) {
        self.end.at = at;
        self.publish();
    }

    /// Appends `n` bytes, for which there is room, and publishes them.
    ///
    /// # Safety
    /// `from` is readable for `n` bytes.
    pub(super) unsafe fn append(&mut self, from: *const u8, n: usize) {
        // SAFETY: the caller guarantees that `from` is readable.
        unsafe { self.put(from, n) };
        self.publish();
    }
}

impl Reader {
    /// Makes the end that reads from `peer`. The ring is in the peer's segment, at this rank's index.
    pub(super) fn new(theirs: Arc<Segment>, index: usize, kind: RingKind, peer: u32) -> Reader {
        Reader { end: End::new(theirs, index, kind, peer), published: 0 }
    }

    /// Returns how many bytes can be read now. Reads the writer's cursor only if all known bytes are consumed, or if
    /// `more` is set.
    #[inline]
    fn available(&mut self, more: bool) -> Result<usize> {
        let end = &mut self.end;
        if more || end.other <= end.at {
            let head = end.cursors().head.0.load(Ordering::Acquire);
            // The reader's position may exceed the writer's position by the padding after the last item.
            let (behind, ahead) = (end.at.saturating_sub(head), head.saturating_sub(end.at));
            if head < end.other || behind >= LINE || ahead > end.capacity {
                return Err(end.corrupt("head", head));
            }
            end.other = head;
        }
        Ok(end.other.saturating_sub(end.at) as usize)
    }

    /// Returns the contiguous bytes that can be read now, in place. The bytes stay there until they are consumed.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<(*const u8, usize)> {
        let n = self.available(true)?;
        let n = self.before_record(n);
        let (here, until_end) = self.end.here();
        Ok((here, n.min(until_end)))
    }

    /// Returns how many bytes the last [`Reader::peek`] found, including those that continue at the ring's beginning.
    #[inline]
    pub(super) fn ready(&self) -> usize {
        self.before_record(self.end.other.saturating_sub(self.end.at) as usize)
    }

    /// Returns how many of the next `n` bytes precede the next record.
    #[inline]
    fn before_record(&self, n: usize) -> usize {
        let ahead = self.end.cursors().head.1.load(Ordering::Relaxed).wrapping_sub(1).wrapping_sub(self.end.at);
        (n as u64).min(ahead) as usize
    }

    /// Returns the record at this end's position, if there is one. The record stays until [`Reader::pass_record`].
    pub(super) fn record(&self) -> Option<[u8; RECORD]> {
        let end = &self.end;
        if end.cursors().head.1.load(Ordering::Relaxed) != end.at + 1 || end.other < end.at + RECORD as u64 {
            return None;
        }
        let mut record = [0; RECORD];
        let (here, until_end) = end.here();
        let first = RECORD.min(until_end);
        // SAFETY: the record's bytes are published, and belong to the reader until they are passed. They may continue
        // at the ring's beginning.
        unsafe {
            ptr::copy_nonoverlapping(here, record.as_mut_ptr(), first);
            ptr::copy_nonoverlapping(end.data, record.as_mut_ptr().add(first), RECORD - first);
        }
        Some(record)
    }

    /// Tells the writer that this rank can read private memory of the writer's process.
    pub(super) fn allow_private(&self) {
        self.end.cursors().tail.reads_private.store(1, Ordering::Relaxed);
    }

    /// Passes the record at this end's position, and publishes the new position. The lent bytes have been read, except
    /// the last `refused` bytes.
    pub(super) fn pass_record(&mut self, refused: usize) {
        self.end.cursors().tail.refused.store(refused as u64, Ordering::Relaxed);
        self.end.at += RECORD as u64;
        self.publish();
    }

    /// Copies up to `len` bytes to `to`, without consuming them: those that can be read now, from `offset` bytes after
    /// this end's position on. Returns the number of copied bytes.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    pub(super) unsafe fn copy_ahead(&mut self, offset: usize, to: *mut u8, len: usize) -> Result<usize> {
        let n = self.available(true)?;
        let n = self.before_record(n).saturating_sub(offset).min(len);
        let at = (self.end.at + offset as u64) & (self.end.capacity - 1);
        let first = n.min((self.end.capacity - at) as usize);
        // SAFETY: the `n` bytes are published, and belong to the reader until they are consumed. They may continue at
        // the ring's beginning. `to` has room for them.
        unsafe {
            ptr::copy_nonoverlapping(self.end.data.add(at as usize), to, first);
            ptr::copy_nonoverlapping(self.end.data, to.add(first), n - first);
        }
        Ok(n)
    }

    /// Consumes the next `n` bytes. Returns whether free room was published, for which the writer may be waiting.
    #[inline]
    pub(super) fn consume(&mut self, n: usize) -> bool {
        debug_assert!(n == 0 || self.end.at + n as u64 <= self.end.other);
        self.end.at += n as u64;
        // Free room is published in large steps, so that the cursor's cache line moves less often.
        let publishes = self.end.at - self.published >= self.end.capacity / 8;
        if publishes {
            self.publish();
        }
        publishes
    }

    pub(super) fn publish(&mut self) {
        self.end.cursors().tail.at.store(self.end.at, Ordering::Release);
        self.published = self.end.at;
    }

    /// Moves this end to the position `at`, and publishes it. The bytes before `at` are of no use to this rank.
    pub(super) fn move_to(&mut self, at: u64) {
        (self.end.at, self.end.other) = (at, at);
        self.publish();
    }

    /// Copies up to `len` available bytes to `to`. With `past_cache`, the copy bypasses the cache. Returns the number
    /// of copied bytes, and whether free room was published.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    pub(super) unsafe fn read(&mut self, to: *mut u8, len: usize, past_cache: bool) -> Result<(usize, bool)> {
        let known = self.available(false)?;
        let n = if known < len { self.available(true)? } else { known };
        let n = self.before_record(n).min(len);
        let (mut done, mut publishes) = (0, false);
        while done < n {
            let (here, until_end) = self.end.here();
            let part = (n - done).min(until_end).min((self.end.capacity / 4) as usize);
            // SAFETY: `part` bytes are published at `here`, and belong to the reader until they are consumed. `to` has
            // room for them.
            unsafe { copy(here, to.add(done), part, past_cache) };
            done += part;
            publishes |= self.consume(part);
        }
        Ok((n, publishes))
    }

    /// Ends the item: the next item begins at a new line.
    #[inline]
    pub(super) fn end(&mut self) {
        self.end.at = self.end.at.next_multiple_of(LINE);
    }

    #[inline]
    pub(super) fn line(&self) -> Option<u64> {
        self.end.line()
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
