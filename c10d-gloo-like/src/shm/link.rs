//! A link between two ranks on one host: a ring in each direction, and the peer's doorbell.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::Result;

use super::ring::{Reader, Writer};
use super::{RingKind, Segment};

/// One end of a pair of rings.
pub(crate) struct ShmLink {
    out: Writer,
    into: Reader,
    theirs: Arc<Segment>,
}

impl ShmLink {
    /// Makes the link to `peer`, which has the index `peer_index` in this rank's segment; this rank has the index
    /// `own_index` in the peer's.
    pub(crate) fn new(
        peer: u32,
        kind: RingKind,
        (own, peer_index): (Arc<Segment>, usize),
        (theirs, own_index): (Arc<Segment>, usize),
    ) -> ShmLink {
        ShmLink {
            out: Writer::new(own, peer_index, kind, peer),
            into: Reader::new(theirs.clone(), own_index, kind, peer),
            theirs,
        }
    }

    fn wake(&self) {
        self.theirs.header().bell.ring();
    }

    /// See [`crate::link::Link::write`].
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline]
    pub(crate) unsafe fn write(&mut self, head: &[u8], body: *const u8, len: usize) -> Result<usize> {
        // SAFETY: the caller guarantees it.
        let n = unsafe { self.out.write(head, body, len) }?;
        if n > 0 {
            self.wake();
        }
        Ok(n)
    }

    /// See [`crate::link::Link::peek`].
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<(*const u8, usize)> {
        self.into.peek()
    }

    /// See [`crate::link::Link::consume`].
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        if self.into.consume(n) {
            self.wake();
        }
    }

    /// See [`crate::link::Link::read`].
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    #[inline]
    pub(crate) unsafe fn read(&mut self, to: *mut u8, len: usize) -> Result<usize> {
        // SAFETY: the caller guarantees it.
        let (n, stroke) = unsafe { self.into.read(to, len) }?;
        if stroke {
            self.wake();
        }
        Ok(n)
    }

    /// See [`crate::link::Link::end_write`].
    #[inline]
    pub(crate) fn end_write(&mut self) {
        self.out.end();
    }

    /// See [`crate::link::Link::end_read`].
    #[inline]
    pub(crate) fn end_read(&mut self) {
        self.into.end();
    }
}
