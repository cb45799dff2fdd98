//! The memory to which a plan's regions refer. Only this module and `exchange` access memory through pointers in the
//! executor.
//!
//! The code that adds a piece guarantees that its memory is valid until the spaces are cleared. The code here stays
//! inside the pieces.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{self, NonNull};
use std::slice;

use c10d_core::{Error, ErrorKind, Result};

use super::Reduction;
use super::announce::HEADER;
use crate::link::Link;
use crate::plan::{Region, Space};
use crate::shm::{Lend, Payload, copy};

/// The tensors of one space. Offsets count through the tensors as if they were contiguous.
#[derive(Default)]
struct Pieces {
    list: Vec<Piece>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Piece {
    at: *mut u8,
    /// The offset in the space at which the piece ends.
    end: usize,
    len: usize,
}

impl Pieces {
    fn add(&mut self, at: *mut u8, len: usize) {
        if len > 0 {
            self.len += len;
            self.list.push(Piece { at, end: self.len, len });
        }
    }

    fn clear(&mut self) {
        self.list.clear();
        self.len = 0;
    }

    /// Returns the address of the byte at `offset`, and the number of bytes up to the end of its piece (0 if `offset`
    /// is not inside the space).
    #[inline]
    fn at(&self, offset: usize) -> (*mut u8, usize) {
        let i = if self.list.len() == 1 { 0 } else { self.list.partition_point(|p| p.end <= offset) };
        match self.list.get(i) {
            Some(p) if offset < p.end => {
                let there = p.end - offset;
                // SAFETY: `there` is between 1 and `len`, so the address is inside the piece.
                (unsafe { p.at.add(p.len - there) }, there)
            }
            _ => (NonNull::dangling().as_ptr(), 0),
        }
    }
}

/// Memory of the backend, aligned to cache lines and kept between ops.
struct Scratch {
    at: *mut u8,
    len: usize,
}

/// The smallest size of the scratch memory in bytes. Larger sizes are powers of two, so ops of growing size allocate
/// rarely.
const LEAST: usize = 4 << 10;

impl Scratch {
    fn layout(len: usize) -> Result<Layout> {
        Layout::from_size_align(len, 64)
            .map_err(|_| Error::new(ErrorKind::Resource, "intermediate results cannot be that large"))
    }

    fn reserve(&mut self, len: usize) -> Result {
        if len <= self.len {
            return Ok(());
        }
        let len = len.max(LEAST).checked_next_power_of_two().unwrap_or(len);
        let layout = Self::layout(len)?;
        // SAFETY: the size of the layout is at least `LEAST`, not 0.
        let at = unsafe { alloc_zeroed(layout) };
        if at.is_null() {
            let what = format!("no memory for {len} bytes of intermediate results");
            return Err(Error::no_memory(what));
        }
        self.free();
        (self.at, self.len) = (at, len);
        Ok(())
    }

    fn free(&mut self) {
        if self.len > 0
            && let Ok(layout) = Self::layout(self.len)
        {
            // SAFETY: `reserve` allocated the memory with this layout, and `len` is set to 0, so it is freed once.
            unsafe { dealloc(self.at, layout) };
            self.len = 0;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.free();
    }
}

/// The limit in bytes up to which short pieces are joined over TCP and written together: each write is a system call
/// and wakes the peer.
const JOINED: usize = 16 << 10;

/// The three spaces of an op.
pub(crate) struct Spaces {
    input: Pieces,
    output: Pieces,
    scratch: Pieces,
    memory: Scratch,
    /// Whether copies to the output bypass the cache.
    past_cache: bool,
    /// Which bytes of these spaces the links may lend.
    lend: Lend,
    /// The sources of the current reduction, in rank order. A null pointer stands for this rank's own region.
    sources: Vec<*const u8>,
    /// Copies of short pieces of a region, one after another.
    joined: Vec<u8>,
}

// SAFETY: the scratch memory is owned. The pieces are valid on any thread, as the callers of `add_input` and
// `add_output` guarantee.
unsafe impl Send for Spaces {}

/// Bytes that a link shows. They are valid until the next operation on that link.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    at: *const u8,
    pub(super) len: usize,
}

impl Spaces {
    pub(crate) fn new() -> Spaces {
        Spaces {
            input: Pieces::default(),
            output: Pieces::default(),
            scratch: Pieces::default(),
            memory: Scratch { at: ptr::null_mut(), len: 0 },
            past_cache: false,
            lend: Lend::Windows,
            sources: Vec::new(),
            joined: Vec::new(),
        }
    }

    /// Removes the tensors, but keeps the memory for the next op.
    pub(crate) fn clear(&mut self) {
        self.input.clear();
        self.output.clear();
    }

    /// Appends a tensor to the input.
    ///
    /// # Safety
    /// The memory is readable for `len` bytes, and no other code writes to it until [`Spaces::clear`].
    pub(crate) unsafe fn add_input(&mut self, at: *const u8, len: usize) {
        self.input.add(at.cast_mut(), len);
    }

    /// Appends a tensor to the output.
    ///
    /// # Safety
    /// The memory is readable and writable for `len` bytes, and no other code uses it until [`Spaces::clear`]. It may
    /// overlap the input only where the plan allows it.
    pub(crate) unsafe fn add_output(&mut self, at: *mut u8, len: usize) {
        self.output.add(at, len);
    }

    #[inline]
    pub(super) fn reserve(&mut self, len: usize) -> Result {
        if len <= self.memory.len {
            return Ok(());
        }
        self.memory.reserve(len)?;
        self.scratch.clear();
        self.scratch.add(self.memory.at, self.memory.len);
        Ok(())
    }

    #[inline]
    pub(super) fn tensor_bytes(&self) -> usize {
        self.input.len + self.output.len
    }

    #[inline]
    pub(super) fn set_past_cache(&mut self, past_cache: bool) {
        self.past_cache = past_cache;
    }

    #[inline]
    pub(super) fn set_lend(&mut self, lend: Lend) {
        self.lend = lend;
    }

    fn space(&self, space: Space) -> &Pieces {
        match space {
            Space::Input => &self.input,
            Space::Output => &self.output,
            Space::Scratch => &self.scratch,
        }
    }

    /// Whether the region lies inside its space.
    pub(super) fn holds(&self, region: &Region) -> bool {
        region.offset.checked_add(region.len).is_some_and(|end| end <= self.space(region.space).len)
    }

    /// Returns the address of byte `done` of the region, and the number of contiguous bytes of the region from there,
    /// at most `most`.
    #[inline]
    fn part(&self, region: &Region, done: usize, most: usize) -> (*mut u8, usize) {
        let (at, there) = self.space(region.space).at(region.offset + done);
        (at, there.min(most).min(region.len - done))
    }

    /// Returns the address of the region, if its bytes are contiguous.
    pub(super) fn address(&self, region: &Region) -> Option<*const u8> {
        let (at, there) = self.part(region, 0, region.len);
        (there == region.len).then_some(at.cast_const())
    }

    /// Writes `head` and up to `most` bytes of the region from `done` on into the multicast ring, where `payload` is
    /// the whole region. Returns the same as [`Spaces::send`], and whether the link waits for its peer.
    pub(super) fn multicast(
        &self,
        link: &mut Link,
        head: &[u8],
        payload: Payload,
        done: usize,
        most: usize,
    ) -> Result<(usize, usize, bool)> {
        // SAFETY: the payload is contiguous memory of a piece, which is valid during the write.
        let (taken, waits) = unsafe { link.multicast(head, payload, done, most) }?;
        Ok((taken, head.len() + most, waits))
    }

    /// Writes `head` and up to `most` bytes of the region from `done` on: those of one piece, or of several short
    /// pieces. Returns how many bytes the link accepted, and how many it was offered.
    #[inline]
    pub(super) fn send(
        &mut self,
        link: &mut Link,
        head: &[u8],
        from: &Region,
        done: usize,
        most: usize,
    ) -> Result<(usize, usize)> {
        let (mut at, mut n) = self.part(from, done, most);
        // Over shared memory, the link may lend the bytes in place, so they must not be copied to memory that is used
        // again.
        if n < most.min(JOINED) && n < from.len - done && matches!(link, Link::Tcp(_)) {
            (at, n) = self.join(from, done, most);
        }
        // A header with all bytes of the region is a whole item.
        let whole = head.len() == HEADER && n == from.len;
        // SAFETY: `part` or `join` returned `n` bytes, which are valid during the write.
        let taken = match whole && unsafe { link.write_item(head, at, n) }? {
            true => head.len() + n,
            // SAFETY: as above.
            false => unsafe { link.write(head, at, n, self.lend) }?,
        };
        Ok((taken, head.len() + n))
    }

    /// Copies up to `most` bytes of the region from `done` on, at most [`JOINED`], into one buffer. Returns the number
    /// of bytes and the buffer's address, valid until the next call.
    fn join(&mut self, from: &Region, done: usize, most: usize) -> (*mut u8, usize) {
        self.joined.clear();
        self.joined.reserve(JOINED);
        let most = most.min(JOINED);
        while self.joined.len() < most {
            let there = self.joined.len();
            let (at, n) = self.part(from, done + there, most - there);
            if n == 0 {
                break;
            }
            // SAFETY: `part` returned `n` bytes of a piece; nobody writes to them while the region is sent.
            self.joined.extend_from_slice(unsafe { slice::from_raw_parts(at, n) });
        }
        (self.joined.as_mut_ptr(), self.joined.len())
    }

    /// Reads into the region from `done` on, within one piece. Returns how many bytes were read, and how many were
    /// requested.
    #[inline]
    pub(super) fn receive(&self, link: &mut Link, to: &Region, done: usize) -> Result<(usize, usize)> {
        let (at, n) = self.part(to, done, to.len - done);
        // SAFETY: `part` returned `n` bytes of a piece.
        let got = unsafe { link.read(at, n, self.past_cache) }?;
        Ok((got, n))
    }

    /// Copies `n` bytes at offset `done` of one region to the same offset of the other.
    pub(super) fn copy(&self, from: &Region, to: &Region, mut done: usize, n: usize) {
        let end = done + n;
        while done < end {
            let (source, a) = self.part(from, done, end - done);
            let (target, b) = self.part(to, done, a);
            if b == 0 {
                return;
            }
            if !ptr::eq(source, target) {
                // SAFETY: both pointers have `b` bytes of a piece. Regions of a plan overlap only if they are equal.
                unsafe { copy(source, target, b, self.past_cache) };
            }
            done += b;
        }
    }

    /// Begins a reduction. The bytes added next are its sources.
    pub(super) fn begin_sources(&mut self) {
        self.sources.clear();
    }

    /// Adds a source: shown bytes of a link or, for `None`, this rank's own region (a null pointer).
    pub(super) fn source(&mut self, shown: Option<Shown>) {
        self.sources.push(shown.map_or(ptr::null(), |s| s.at));
    }

    /// Reduces `n` bytes (whole elements) of all sources into the region from `done` on.
    pub(super) fn reduce(&mut self, by: &Reduction, last: bool, own: &Region, to: &Region, mut done: usize, n: usize) {
        let kernel = if last { by.last } else { by.partial };
        let end = done + n;
        let Some(mine) = self.sources.iter().position(|s| s.is_null()) else { return };
        while done < end {
            let (source, a) = self.part(own, done, end - done);
            let (target, b) = if own == to { (source, a) } else { self.part(to, done, a) };
            if b == 0 {
                return;
            }
            self.sources[mine] = source;
            // SAFETY: every source shows `n` bytes, of which `b` remain. The own region and the target have `b` bytes
            // of a piece each, and are equal or do not overlap.
            unsafe { kernel(target, &self.sources, b / by.elem, by.scale) };
            done += b;
            if done == end {
                return;
            }
            for (i, s) in self.sources.iter_mut().enumerate() {
                if i != mine {
                    // SAFETY: the sum is at most the end of the `n` bytes that the source shows.
                    *s = unsafe { s.add(b) };
                }
            }
        }
    }
}

/// Returns the bytes that the link shows now.
#[inline]
pub(super) fn peek(link: &mut Link) -> Result<Shown> {
    link.peek().map(|(at, len)| Shown { at, len })
}

/// Returns the bytes that the link shows now, without reporting errors (see [`Link::glance`]).
pub(super) fn glance(link: &mut Link) -> Shown {
    let (at, len) = link.glance();
    Shown { at, len }
}

impl Shown {
    pub(super) const NONE: Shown = Shown { at: NonNull::dangling().as_ptr(), len: 0 };

    /// Returns the first `N` bytes, if at least `N` are shown.
    #[inline]
    pub(super) fn first<const N: usize>(&self) -> Option<[u8; N]> {
        // SAFETY: at least `N` bytes are shown; the read is unaligned.
        (self.len >= N).then(|| unsafe { self.at.cast::<[u8; N]>().read_unaligned() })
    }

    /// Returns the shown bytes without the first `n`; `n <= len`.
    #[inline]
    pub(super) fn after(self, n: usize) -> Shown {
        debug_assert!(n <= self.len);
        // SAFETY: the sum is at most the end of the shown bytes.
        Shown { at: unsafe { self.at.add(n) }, len: self.len - n }
    }
}
