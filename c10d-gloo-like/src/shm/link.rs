//! A link between two ranks on one host: a ring and a mailbox in each direction, and the peer's doorbell.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use c10d_core::process::Token;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Phase, Result};

use super::lent::{Borrowed, Lend, Lender, Out, RECORD, multicast_item, multicast_record};
use super::mailbox;
use super::multicast::{Multicast, Payload};
use super::peer_memory::PeerMemory;
use super::ring::{Reader, Writer};
use super::{CorePair, RingKind, Segment};

/// One end of a pair of rings with their mailboxes.
pub(crate) struct ShmLink {
    peer: u32,
    out: Writer,
    outbox: mailbox::Writer,
    lender: Lender,
    /// This rank's multicast ring, and the peer's index in it.
    multicast: Option<(Arc<Mutex<Multicast>>, usize)>,
    /// Whether the item that is being sent is in the multicast ring.
    is_multicast: bool,
    into: Reader,
    /// The peer's multicast ring.
    multicast_into: Option<Reader>,
    /// How many bytes of the item that is being read are left in the peer's multicast ring.
    multicast_left: usize,
    /// The bytes that the peer lends at the reader's position.
    borrowed: Option<Borrowed>,
    /// The private memory of the peer, if this rank can read it.
    memory: Option<PeerMemory>,
    inbox: mailbox::Reader,
    /// Whether the bytes that were shown last are in the mailbox.
    mail: bool,
    theirs: Arc<Segment>,
    cores: CorePair,
}

impl ShmLink {
    /// Makes the link to `peer`. The peer has the index `peer_index` in this rank's segment, and this rank has the
    /// index `own_index` in the peer's segment.
    pub(crate) fn new(
        peer: u32,
        kind: RingKind,
        (own, peer_index): (Arc<Segment>, usize),
        (theirs, own_index): (Arc<Segment>, usize),
    ) -> ShmLink {
        let into = Reader::new(theirs.clone(), own_index, kind, peer);
        let memory = if kind == RingKind::Collective { theirs.memory(&own) } else { None };
        if memory.is_some() {
            into.allow_private();
        }
        let has_multicast = kind == RingKind::Collective && theirs.multicast_peers() > 0;
        let multicast_into = || Reader::new(theirs.clone(), own_index, RingKind::Multicast, peer);
        ShmLink {
            peer,
            lender: Lender::new(kind),
            multicast: None,
            is_multicast: false,
            multicast_into: has_multicast.then(multicast_into),
            multicast_left: 0,
            borrowed: None,
            memory,
            out: Writer::new(own.clone(), peer_index, kind, peer),
            outbox: mailbox::Writer::new(own.clone(), peer_index, kind, peer),
            into,
            inbox: mailbox::Reader::new(theirs.clone(), own_index, kind, peer),
            mail: false,
            cores: CorePair::new(own, theirs.clone()),
            theirs,
        }
    }

    /// Sets the process of the peer. The link lends bytes that this process can read in place, and does not copy them
    /// into the ring.
    pub(crate) fn with_reader(mut self, process: Token) -> ShmLink {
        self.lender.reader = Some(process);
        self
    }

    /// Sets this rank's multicast ring. `index` is the peer's index in it.
    pub(crate) fn with_multicast(mut self, ring: Arc<Mutex<Multicast>>, index: usize) -> ShmLink {
        self.multicast = Some((ring, index));
        self
    }

    /// Returns the cores of the two ranks.
    pub(crate) fn cores(&self) -> &CorePair {
        &self.cores
    }

    #[inline]
    fn wake(&self) {
        self.theirs.header().bell.ring();
    }

    /// See [`crate::link::Link::write_item`].
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline(always)]
    pub(crate) unsafe fn write_item(&mut self, head: &[u8], body: *const u8, len: usize) -> Result<bool> {
        let Some(line) = self.out.line() else { return Ok(false) };
        // SAFETY: the caller guarantees that `body` is readable.
        let written = unsafe { self.outbox.write(line, head, body, len) }?;
        if written {
            self.wake();
        }
        Ok(written)
    }

    /// See [`crate::link::Link::prefetch_item`].
    #[inline]
    pub(crate) fn prefetch_item(&self) {
        self.outbox.prefetch();
    }

    /// See [`crate::link::Link::write_whole`].
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline]
    pub(crate) unsafe fn write_whole(&mut self, head: &[u8], body: *const u8, len: usize) -> Result<bool> {
        let total = head.len() + len;
        let lends = || self.lender.record(body, len, Lend::Windows, || false).is_some();
        if self.lender.out.is_some() || lends() || self.out.free(total)? < total {
            return Ok(false);
        }
        // SAFETY: the caller guarantees that `body` is readable.
        let written = unsafe { self.out.write(head, body, len) }?;
        debug_assert_eq!(written, total);
        self.out.end();
        self.wake();
        Ok(true)
    }

    /// See [`crate::link::Link::write`].
    ///
    /// # Safety
    /// `body` is readable for `len` bytes.
    #[inline]
    pub(crate) unsafe fn write(&mut self, head: &[u8], body: *const u8, len: usize, lend: Lend) -> Result<usize> {
        if let Some(out) = self.lender.out {
            // The caller calls again with the lent bytes, and perhaps with more after them.
            debug_assert!(head.is_empty() && len >= out.len);
            let Some(refused) = self.out.refused(out.end, if out.private { out.len } else { 0 })? else { return Ok(0) };
            self.lender.out = None;
            if refused > 0 && !self.lender.refused {
                tracing::debug!("rank {} cannot read memory of this rank; it is copied from now on", self.peer);
                self.lender.refused = true;
            }
            if refused < out.len {
                return Ok(out.len - refused);
            }
        }
        if let Some((record, private)) = self.lender.record(body, len, lend, || self.out.reads_private()) {
            if !self.out.is_passed(self.lender.multicast_end)? {
                return Ok(0);
            }
            let Some(end) = self.out.lend(head, &record)? else { return Ok(0) };
            self.lender.out = Some(Out { len, end, private });
            self.wake();
            return Ok(head.len());
        }
        // SAFETY: the caller guarantees that `body` is readable.
        let n = unsafe { self.out.write(head, body, len) }?;
        if n > 0 {
            self.wake();
        }
        Ok(n)
    }

    /// Whether the peer can read private memory of this rank.
    pub(crate) fn lends_private(&self) -> bool {
        !self.lender.refused && self.out.reads_private()
    }

    /// Whether this rank has a multicast ring that the peer can read.
    pub(crate) fn has_multicast(&self) -> bool {
        self.multicast.is_some()
    }

    /// Whether the link would lend these bytes in place, since they are in a window that the peer can read.
    pub(crate) fn lends(&self, at: *const u8, len: usize) -> bool {
        self.lender.record(at, len, Lend::Windows, || false).is_some()
    }

    /// See [`crate::link::Link::multicast`].
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
        let Some((ring, index)) = &self.multicast else { return Ok((0, true)) };
        let mut ring = ring.lock();
        if !self.is_multicast {
            let want = head.len() + RECORD;
            if self.out.free(want)? < want || !self.out.is_passed(self.lender.multicast_end)? {
                return Ok((0, true));
            }
            let Some(start) = ring.begin(*index, payload) else { return Ok((0, false)) };
            if let Some(end) = self.out.lend(head, &multicast_record(start, payload.len))? {
                self.lender.multicast_end = end;
            }
            self.is_multicast = true;
        }
        // SAFETY: the caller guarantees that the bytes are readable.
        let (now, waits) = unsafe { ring.advance(*index, done + more) }?;
        drop(ring);
        self.is_multicast = now < payload.len;
        let taken = head.len() + now - done;
        if taken > 0 {
            self.wake();
        }
        Ok((taken, waits))
    }

    /// Returns the bytes of the next item, or the rest of the item that is being read, if they are in the mailbox.
    #[inline]
    fn peek_mail(&mut self) -> Result<Option<(*const u8, usize)>> {
        let shown = match self.into.line() {
            Some(line) => self.inbox.peek(line)?,
            None => None,
        };
        self.mail = shown.is_some();
        Ok(shown)
    }

    /// See [`crate::link::Link::peek_exact`].
    #[inline(always)]
    pub(crate) fn peek_exact(&mut self, len: usize) -> Option<*const u8> {
        let shown = self.inbox.peek_exact(self.into.line()?, len)?;
        self.mail = true;
        Some(shown)
    }

    /// See [`crate::link::Link::consume_item`].
    #[inline(always)]
    pub(crate) fn consume_item(&mut self, len: usize) {
        // The bytes are not lent, since a lent item is never shown as a whole.
        let news = if self.mail {
            self.inbox.consume(len)
        } else {
            let news = self.into.consume(len);
            self.into.end();
            news
        };
        if news {
            self.wake();
        }
    }

    /// Returns the next item, if it is in the mailbox. Otherwise returns `Err` with the number of bytes that the ring
    /// shows.
    #[inline]
    pub(crate) fn peek_item(&mut self) -> Result<Result<(*const u8, usize), usize>> {
        if let Some(shown) = self.peek_mail()? {
            return Ok(Ok(shown));
        }
        let shown = self.peek()?;
        Ok(if self.mail { Ok(shown) } else { Err(shown.1) })
    }

    /// Returns the bytes that the mailbox or the ring shows.
    #[inline]
    fn peek_copied(&mut self) -> Result<(*const u8, usize)> {
        if let Some(shown) = self.peek_mail()? {
            return Ok(shown);
        }
        let shown = self.into.peek()?;
        // If an item of the mailbox comes before the bytes of the ring, it is visible by now.
        if shown.1 > 0
            && let Some(shown) = self.peek_mail()?
        {
            return Ok(shown);
        }
        Ok(shown)
    }

    /// See [`crate::link::Link::peek`].
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<(*const u8, usize)> {
        if self.borrowed.is_none() && self.multicast_left == 0 {
            let shown = self.peek_copied()?;
            if shown.1 > 0 || self.mail || !self.borrow()? {
                return Ok(shown);
            }
        }
        if self.multicast_left > 0 {
            let what = "the peer sent values that are reduced through its multicast ring";
            return Err(Error::new(ErrorKind::Protocol, what).guilty([self.peer]).phase(Phase::Transfer));
        }
        // Only values that are reduced are used in place.
        self.borrowed.as_ref().and_then(Borrowed::shown).ok_or_else(|| {
            let what = "the peer lent values that are reduced, but they are in memory that this rank has not mapped";
            Error::new(ErrorKind::Protocol, what).guilty([self.peer]).phase(Phase::Transfer)
        })
    }

    /// See [`crate::link::Link::peek_whole`].
    #[inline]
    pub(crate) fn peek_whole(&mut self, len: usize) -> Result<Option<(*const u8, usize)>> {
        if self.borrowed.is_some() || self.peek_mail()?.is_some() {
            return Ok(None);
        }
        let shown = self.into.peek()?;
        // If an item of the mailbox precedes the bytes of the ring, it is visible by now.
        let whole = self.into.ready() >= len && self.peek_mail()?.is_none();
        Ok(whole.then_some(shown))
    }

    /// See [`crate::link::Link::copy_ahead`].
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    pub(crate) unsafe fn copy_ahead(&mut self, offset: usize, to: *mut u8, len: usize) -> Result<usize> {
        // SAFETY: the caller guarantees that `to` is writable.
        unsafe { self.into.copy_ahead(offset, to, len) }
    }

    /// Takes the bytes that the peer lends, if a record for such bytes is next. Returns whether there is such a record.
    fn borrow(&mut self) -> Result<bool> {
        let Some(record) = self.into.record() else { return Ok(false) };
        if let (Some((start, len)), Some(ring)) = (multicast_item(&record), &mut self.multicast_into) {
            ring.move_to(start);
            self.multicast_left = len;
            return Ok(true);
        }
        self.borrowed = Borrowed::of(&record, self.memory.is_some());
        if self.borrowed.is_none() {
            let what = "the peer lent bytes in memory that this rank has not mapped";
            return Err(Error::new(ErrorKind::Protocol, what).guilty([self.peer]).phase(Phase::Transfer));
        }
        Ok(true)
    }

    /// Refuses the rest of the lent bytes, which could not be read. If the peer has given up the group, nothing
    /// happens: its bytes may be gone, and this rank gets the cause of the failure soon.
    #[cold]
    fn refuse(&mut self) {
        if self.is_revoked() {
            return;
        }
        if let Some(borrowed) = self.borrowed.take() {
            self.into.pass_record(borrowed.left());
            self.wake();
        }
    }

    /// Whether the group has failed on the peer. The peer sets this flag before its caller gets the buffers back. So
    /// bytes that were read before the flag is set are those that the peer sent.
    fn is_revoked(&self) -> bool {
        fence(Ordering::Acquire);
        self.theirs.header().revoked.load(Ordering::Acquire) != 0
    }

    /// See [`crate::link::Link::consume`].
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) -> bool {
        if self.borrowed.is_some() && self.is_revoked() {
            return false;
        }
        let news = match &mut self.borrowed {
            None if self.mail => self.inbox.consume(n),
            None => self.into.consume(n),
            Some(borrowed) => {
                let over = borrowed.advance(n);
                if over {
                    self.borrowed = None;
                    self.into.pass_record(0);
                }
                over
            }
        };
        if news {
            self.wake();
        }
        true
    }

    /// See [`crate::link::Link::read`].
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    #[inline]
    pub(crate) unsafe fn read(&mut self, to: *mut u8, len: usize, past_cache: bool) -> Result<usize> {
        if self.multicast_left > 0 {
            // SAFETY: the caller guarantees that `to` is writable.
            return unsafe { self.read_multicast(to, len, past_cache) };
        }
        if self.borrowed.is_none() && self.into.line().is_some() {
            let (at, there) = self.peek_copied()?;
            if self.mail {
                let n = there.min(len);
                // SAFETY: the mailbox shows `there` bytes, which stay until consumed; `to` has room for `len`.
                unsafe { ptr::copy_nonoverlapping(at, to, n) };
                return Ok(if self.consume(n) { n } else { 0 });
            }
        }
        if self.borrowed.is_none() {
            // SAFETY: the caller guarantees that `to` is writable.
            let (n, publishes) = unsafe { self.into.read(to, len, past_cache) }?;
            if publishes {
                self.wake();
            }
            if n > 0 || !self.borrow()? {
                return Ok(n);
            }
        }
        if self.multicast_left > 0 {
            // SAFETY: the caller guarantees that `to` is writable.
            return unsafe { self.read_multicast(to, len, past_cache) };
        }
        let memory = self.memory.as_ref();
        // SAFETY: the caller guarantees that `to` is writable.
        let copied = self.borrowed.as_ref().and_then(|borrowed| unsafe { borrowed.copy(memory, to, len, past_cache) });
        match copied {
            Some(n) => Ok(if self.consume(n) { n } else { 0 }),
            None => {
                self.refuse();
                Ok(0)
            }
        }
    }

    /// Reads the item in the peer's multicast ring.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    unsafe fn read_multicast(&mut self, to: *mut u8, len: usize, past_cache: bool) -> Result<usize> {
        let Some(ring) = &mut self.multicast_into else { return Ok(0) };
        // SAFETY: the caller guarantees that `to` is writable.
        let (n, mut news) = unsafe { ring.read(to, len.min(self.multicast_left), past_cache) }?;
        self.multicast_left -= n;
        if self.multicast_left == 0 {
            ring.publish();
            self.into.pass_record(0);
            news = true;
        }
        if news {
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
