//! Sends bytes to one peer and receives bytes from it, over shared memory or TCP.
#![allow(unsafe_code)]

use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::slice;
use std::sync::Arc;

use c10d_core::Result;

use crate::shm::{CorePair, Lend, Payload, ShmLink};
use crate::tcp::TcpLink;

/// A stream of bytes to a peer and a stream of bytes from it. No method blocks, except while the operating system reads
/// memory of the peer that is in a file which does not answer (see `shm::peer_memory`). After an error, the link cannot
/// be used any more.
#[expect(clippy::large_enum_variant, reason = "a box would cost each access to shared memory, where time counts most")]
pub(crate) enum Link {
    /// Through shared memory.
    Shm(ShmLink),
    /// Over a connection.
    Tcp(TcpLink),
}

/// The next item of a link.
#[derive(Clone, Copy)]
pub(crate) enum Item {
    /// The whole item has arrived in a mailbox. It has this many bytes at this address, which stay there until they are
    /// consumed.
    Here(*const u8, usize),
    /// The item does not arrive in a mailbox; [`Link::peek`] shows its bytes.
    Elsewhere,
    /// No item has arrived.
    NotYet,
}

impl Link {
    /// Sends a whole item, `head` and then the `len` bytes at `body`, through a mailbox, if the link has a mailbox with
    /// room for the item. Returns `false` if nothing was sent. This may be called only between two items.
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline(always)]
    pub(crate) unsafe fn write_item(&mut self, head: &[u8], body: *const u8, len: usize) -> Result<bool> {
        match self {
            // SAFETY: the caller guarantees that `body` is readable.
            Link::Shm(l) => unsafe { l.write_item(head, body, len) },
            Link::Tcp(_) => Ok(false),
        }
    }

    /// Makes the processor fetch the memory into which the next [`Link::write_item`] writes. This saves time only if
    /// the peer sends nothing to this rank before that write.
    #[inline]
    pub(crate) fn prefetch_item(&self) {
        if let Link::Shm(l) = self {
            l.prefetch_item();
        }
    }

    /// Sends a whole item, as [`Link::write_item`] does, through a ring that has room for all of it. Returns `false` if
    /// nothing was sent.
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline]
    pub(crate) unsafe fn write_whole(&mut self, head: &[u8], body: *const u8, len: usize) -> Result<bool> {
        match self {
            // SAFETY: the caller guarantees that `body` is readable.
            Link::Shm(l) => unsafe { l.write_whole(head, body, len) },
            Link::Tcp(_) => Ok(false),
        }
    }

    /// Returns the next item, if all of it has arrived in a mailbox and it has `len` bytes, which stay there until they
    /// are consumed. This may be called only between two items.
    #[inline(always)]
    pub(crate) fn peek_exact(&mut self, len: usize) -> Option<*const u8> {
        match self {
            Link::Shm(l) => l.peek_exact(len),
            Link::Tcp(_) => None,
        }
    }

    /// Consumes the whole item of `len` bytes that [`Link::peek_exact`], [`Link::peek_item`] or [`Link::peek_whole`]
    /// returned.
    #[inline(always)]
    pub(crate) fn consume_item(&mut self, len: usize) {
        match self {
            Link::Shm(l) => l.consume_item(len),
            Link::Tcp(l) => l.consume(len),
        }
    }

    /// Checks for the next item. This may be called only between two items.
    #[inline]
    pub(crate) fn peek_item(&mut self) -> Result<Item> {
        match self {
            Link::Shm(l) => Ok(match l.peek_item()? {
                Ok((at, len)) => Item::Here(at, len),
                Err(0) => Item::NotYet,
                Err(_) => Item::Elsewhere,
            }),
            Link::Tcp(_) => Ok(Item::Elsewhere),
        }
    }

    /// Returns the bytes of the next item, as far as they are contiguous, if the item is in a ring or a connection and
    /// at least `len` of its bytes have arrived. This may be called only between two items.
    #[inline]
    pub(crate) fn peek_whole(&mut self, len: usize) -> Result<Option<(*const u8, usize)>> {
        match self {
            Link::Shm(l) => l.peek_whole(len),
            Link::Tcp(l) => Ok(l.peek_whole(len).map(|b| (b.as_ptr(), b.len()))),
        }
    }

    /// Copies up to `len` bytes of the next item to `to`, without consuming them: those that have arrived in a ring,
    /// from byte `offset` of the item on. Returns the number of copied bytes. This may be called only between two
    /// items, after [`Link::peek_whole`] has shown a part of the item.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    pub(crate) unsafe fn copy_ahead(&mut self, offset: usize, to: *mut u8, len: usize) -> Result<usize> {
        match self {
            // SAFETY: the caller guarantees that `to` is writable.
            Link::Shm(l) => unsafe { l.copy_ahead(offset, to, len) },
            Link::Tcp(_) => Ok(0),
        }
    }

    /// Sends as many bytes of `head`, and then of the `len` bytes at `body`, as possible now, and returns their number
    /// (0: none). The link has accepted these bytes; the caller calls again with the rest. `lend` tells which bytes
    /// the link may lend to the peer instead of copying them.
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline]
    pub(crate) unsafe fn write(&mut self, head: &[u8], body: *const u8, len: usize, lend: Lend) -> Result<usize> {
        match self {
            // SAFETY: the caller guarantees that `body` is readable.
            Link::Shm(l) => unsafe { l.write(head, body, len, lend) },
            // SAFETY: the caller guarantees that `body` is readable for `len` bytes. It may dangle only if `len` is 0.
            Link::Tcp(l) => l.write(head, if len == 0 { &[] } else { unsafe { slice::from_raw_parts(body, len) } }),
        }
    }

    /// Whether the link would lend these bytes to the peer in place, since they are in memory that the peer maps.
    pub(crate) fn lends(&self, at: *const u8, len: usize) -> bool {
        match self {
            Link::Shm(l) => l.lends(at, len),
            Link::Tcp(_) => false,
        }
    }

    /// Whether the link can lend private memory of this rank to the peer.
    pub(crate) fn lends_private(&self) -> bool {
        matches!(self, Link::Shm(l) if l.lends_private())
    }

    /// Whether [`Link::multicast`] can be used.
    pub(crate) fn has_multicast(&self) -> bool {
        matches!(self, Link::Shm(l) if l.has_multicast())
    }

    /// Sends a payload through the multicast ring: as many bytes of `more` as possible now, after the first `done`
    /// bytes. The first call sends `head` before them. Returns the number of bytes that were sent, `head` included, and
    /// whether the link waits for this peer (and not for another peer of the ring). If no bytes were sent, the caller
    /// calls again with the same arguments. All peers that get the payload have such a ring.
    ///
    /// # Safety
    /// The first `done + more` bytes of the payload are readable.
    pub(crate) unsafe fn multicast(
        &mut self,
        head: &[u8],
        payload: Payload,
        done: usize,
        more: usize,
    ) -> Result<(usize, bool)> {
        match self {
            // SAFETY: the caller guarantees that the bytes are readable.
            Link::Shm(l) => unsafe { l.multicast(head, payload, done, more) },
            Link::Tcp(_) => Ok((0, true)),
        }
    }

    /// Like [`Link::write`], for `head` alone.
    pub(crate) fn write_head(&mut self, head: &[u8]) -> Result<usize> {
        // SAFETY: the length is 0, so the pointer is not used.
        unsafe { self.write(head, std::ptr::NonNull::dangling().as_ptr(), 0, Lend::Nothing) }
    }

    /// Returns the bytes that can be read now, as far as they are contiguous. The bytes stay in place until they are
    /// consumed, or until the next call on this link. They may be read only through the raw pointer.
    ///
    /// If the bytes end inside an element and the caller consumes all complete elements before that element, a later
    /// call shows that element whole. So no element stays incomplete forever.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<(*const u8, usize)> {
        match self {
            Link::Shm(l) => l.peek(),
            Link::Tcp(l) => l.peek().map(|b| (b.as_ptr(), b.len())),
        }
    }

    /// Like [`Link::peek`], for a caller that can continue without any bytes. Errors are not reported here: the next
    /// `peek` shows the bytes that were not consumed, and reports the errors.
    pub(crate) fn glance(&mut self) -> (*const u8, usize) {
        match self {
            Link::Shm(l) => l.peek().unwrap_or((std::ptr::null(), 0)),
            Link::Tcp(l) => {
                let bytes = l.glance();
                (bytes.as_ptr(), bytes.len())
            }
        }
    }

    /// Consumes the first `n` of the bytes that the last [`Link::peek`] showed. Returns `false` if the peer has lent
    /// these bytes (see `shm::lent`) and the group has failed on the peer. Then the bytes may have changed, and this
    /// rank gets the cause of the failure soon.
    #[inline]
    #[must_use]
    pub(crate) fn consume(&mut self, n: usize) -> bool {
        match self {
            Link::Shm(l) => l.consume(n),
            Link::Tcp(l) => {
                l.consume(n);
                true
            }
        }
    }

    /// Copies up to `len` available bytes to `to`, and returns their number (0: none). `past_cache` is for collectives
    /// whose bytes do not fit into the cache, see [`crate::shm::PAST_CACHE`].
    ///
    /// # Safety
    /// `to` is writable for `len` bytes, and no other code uses them.
    #[inline]
    pub(crate) unsafe fn read(&mut self, to: *mut u8, len: usize, past_cache: bool) -> Result<usize> {
        match self {
            // SAFETY: the caller guarantees that `to` is writable.
            Link::Shm(l) => unsafe { l.read(to, len, past_cache) },
            // SAFETY: the caller guarantees that `to` is writable for `len` bytes. It may dangle only if `len` is 0.
            Link::Tcp(l) => l.read(if len == 0 { &mut [] } else { unsafe { slice::from_raw_parts_mut(to, len) } }),
        }
    }

    /// Ends the item that was being written. The reader must end it at the same byte.
    #[inline]
    pub(crate) fn end_write(&mut self) {
        if let Link::Shm(l) = self {
            l.end_write();
        }
    }

    /// Ends the item that was being read. The writer must have ended the item at the same byte.
    #[inline]
    pub(crate) fn end_read(&mut self) {
        if let Link::Shm(l) = self {
            l.end_read();
        }
    }

    /// Whether written data might be lost if this process ended now. Shared memory stays as long as the peer maps it.
    pub(crate) fn is_untaken(&self) -> bool {
        match self {
            Link::Shm(_) => false,
            Link::Tcp(l) => l.is_untaken(),
        }
    }

    /// Ends the stream to the peer, which sees the end after the last byte.
    pub(crate) fn finish(&self) {
        if let Link::Tcp(l) = self {
            l.finish();
        }
    }

    /// Returns the connection, for polling by threads that do not own the link; `None` for shared memory.
    pub(crate) fn socket(&self) -> Option<Arc<TcpStream>> {
        match self {
            Link::Shm(_) => None,
            Link::Tcp(l) => Some(l.socket()),
        }
    }

    /// Returns the descriptor to poll while waiting; `None` for shared memory, where the peer rings this rank's
    /// doorbell.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Link::Shm(_) => None,
            Link::Tcp(l) => Some(l.fd()),
        }
    }

    /// Returns the cores of the two ranks, if the peer is in shared memory.
    #[inline]
    pub(crate) fn cores(&self) -> Option<&CorePair> {
        match self {
            Link::Shm(l) => Some(l.cores()),
            Link::Tcp(_) => None,
        }
    }

    /// Returns whether the peer's last wait was on the core of this thread. If so, the peer cannot run while this
    /// thread runs.
    pub(crate) fn is_one_core(&self) -> bool {
        self.cores().is_some_and(CorePair::is_one_core)
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "link_speed_tests.rs"]
mod speed;
