//! Exchanges: ops whose items are so small that they fit into mailboxes, or into rings as a whole. A rank writes all
//! its items at once, and uses those of its peers in place. If an item cannot be written, or does not arrive at once,
//! the rank runs the plan of the same op instead. In this plan, the items that the rank has already written count as
//! sent.
#![allow(unsafe_code)]

use std::ops::Range;
use std::{hint, ptr};

use c10d_core::backend::Fingerprint;
use c10d_core::{Result, Span};

use super::Reduction;
use super::announce::HEADER;
use super::executor::Executor;
use super::failure::broken;
use crate::link::{Item, Link};
use crate::pause::Looks;
use crate::shm::MULTICAST_LEAST;

/// The largest number of ranks for which small ops are exchanges.
pub(crate) const MOST_RANKS: u32 = 8;
/// The largest payload of an item, in bytes. Larger items are sent in pieces by the plan, so that the reader works at
/// the same time as the writer.
pub(crate) const MOST_BYTES: usize = 16 << 10;
// The steps that send the items of an exchange are marked as done. None of them uses the multicast ring.
const _: () = assert!(MULTICAST_LEAST > MOST_BYTES);
/// The largest payload of an item that fits into a mailbox, in bytes.
pub(crate) const MAIL_BYTES: usize = 1 << 10;

/// The bytes of a tensor.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    pub(crate) at: *mut u8,
    pub(crate) len: usize,
}

impl Bytes {
    /// No bytes.
    pub(crate) const NONE: Bytes = Bytes { at: ptr::NonNull::dangling().as_ptr(), len: 0 };

    /// Returns all bytes of a tensor; none if the tensor is not in host memory.
    #[inline]
    pub(crate) fn of(span: &Span) -> Bytes {
        span.host_ptr().map_or(Bytes::NONE, |at| Bytes { at, len: span.bytes() })
    }
}

/// The bytes that are sent to each rank, or received from each rank.
#[derive(Clone, Copy)]
pub(crate) enum PerRank<'a> {
    /// The same bytes to or from each rank.
    Whole(Bytes),
    /// One block for each rank. The blocks are consecutive and have the same length. This field is the first block.
    Even(Bytes),
    /// One tensor for each rank.
    List(&'a [Span]),
}

impl PerRank<'_> {
    #[inline]
    pub(crate) fn of(&self, rank: u32) -> Bytes {
        match self {
            PerRank::Whole(bytes) => *bytes,
            PerRank::Even(block) => Bytes { at: block.at.wrapping_add(block.len * rank as usize), len: block.len },
            PerRank::List(spans) => spans.get(rank as usize).map_or(Bytes::NONE, Bytes::of),
        }
    }

    /// Returns the length of the longest part.
    #[inline]
    fn longest(&self) -> usize {
        match self {
            PerRank::Whole(bytes) | PerRank::Even(bytes) => bytes.len,
            PerRank::List(spans) => spans.iter().map(Span::bytes).max().unwrap_or(0),
        }
    }
}

/// The other ranks to which this rank sends items in an exchange, or from which it receives items.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// No other rank.
    Nobody,
    /// Only the rank with this number.
    One(u32),
    /// All other ranks.
    All,
}

impl Others {
    /// Returns these ranks, and perhaps this rank itself, which the caller skips.
    #[inline]
    fn ranks(self, world: u32) -> Range<u32> {
        match self {
            Others::Nobody => 0..0,
            Others::One(rank) => rank..rank + 1,
            Others::All => 0..world,
        }
    }
}

/// How this rank uses the items that it receives.
#[derive(Clone, Copy)]
pub(crate) enum Use<'a> {
    /// Each item is copied to its block. With `own`, the block that this rank sends to itself is copied, too.
    Copied { to: PerRank<'a>, own: bool },
    /// All items and this rank's own bytes are reduced, in rank order.
    Reduced { own: Bytes, to: *mut u8, by: Reduction },
}

/// The part of one rank in an exchange. All bytes for other ranks are read before any byte of an output is written.
#[derive(Clone, Copy)]
pub(crate) struct Exchange<'a> {
    pub(crate) to: Others,
    pub(crate) send: PerRank<'a>,
    pub(crate) from: Others,
    pub(crate) take: Use<'a>,
}

impl Exchange<'_> {
    /// Returns whether every rank receives an item from every other.
    pub(crate) fn is_between_all(&self) -> bool {
        self.to == Others::All && self.from == Others::All
    }

    /// Returns the number of payload bytes of the largest item.
    #[inline]
    pub(crate) fn largest(&self) -> usize {
        let taken = match &self.take {
            Use::Copied { to, .. } => to.longest(),
            Use::Reduced { own, .. } => own.len,
        };
        taken.max(self.send.longest())
    }
}

/// The progress of an exchange.
pub(crate) enum Progress {
    /// The exchange is complete.
    Done,
    /// All peers with a lower rank than this have been sent their items. This rank has used none of its peers' items.
    Written(u32),
}

impl Executor {
    /// Runs an exchange as far as possible. It waits for peers only for the short time that the checks of [`Looks`]
    /// take. The peers with a lower rank than `written` have already been sent their items.
    ///
    /// # Safety
    /// All bytes that the exchange reads are readable, those that it writes are writable, and no other code uses them
    /// during this call.
    #[inline]
    pub(crate) unsafe fn exchange(
        &mut self,
        exchange: &Exchange<'_>,
        fingerprint: &Fingerprint,
        written: u32,
    ) -> Result<Progress> {
        let world = self.links.len() as u32;
        let words = fingerprint.to_words();
        // If a peer had no room for an item of the last exchange, that peer may still be in a much earlier call. So
        // this rank does not wait for room now.
        let mut looks = if self.has_room { self.pause.looks() } else { Looks::NONE };
        self.has_room = true;
        // SAFETY: the caller guarantees that the bytes are readable.
        let written = unsafe { self.write_items(exchange, &words, written, &mut looks) }?;
        if written < world {
            self.has_room = false;
            return Ok(Progress::Written(written));
        }
        // SAFETY: the caller guarantees the conditions of `take`.
        unsafe { self.take(exchange, &words) }
    }

    /// Sends the items of a call before the call's turn, as far as there is room for them. Returns a rank: all peers
    /// with a lower rank have been sent their items.
    ///
    /// # Safety
    /// All bytes that the exchange sends are readable.
    pub(crate) unsafe fn write_ahead(&mut self, exchange: &Exchange<'_>, fingerprint: &Fingerprint) -> Result<u32> {
        // SAFETY: the caller guarantees that the bytes are readable.
        unsafe { self.write_items(exchange, &fingerprint.to_words(), 0, &mut { Looks::NONE }) }
    }

    /// Sends the items to the peers from rank `written` on, as long as there is room. Returns a rank: all peers with a
    /// lower rank have been sent their items.
    ///
    /// # Safety
    /// All bytes that the exchange sends are readable.
    #[inline(always)]
    unsafe fn write_items(
        &mut self,
        exchange: &Exchange<'_>,
        words: &[u64; 3],
        written: u32,
        looks: &mut Looks,
    ) -> Result<u32> {
        let world = self.links.len() as u32;
        for peer in exchange.to.ranks(world) {
            // There is no link to this rank itself.
            let Some(Some(link)) = self.links.get_mut(peer as usize) else { continue };
            if peer < written {
                continue;
            }
            let block = exchange.send.of(peer);
            let head = header(words, block.len);
            // SAFETY: the caller guarantees that the bytes are readable.
            if !unsafe { write(link, &head, block, looks) }.map_err(|e| broken(&self.health, peer, e))? {
                return Ok(peer);
            }
            self.sent += block.len as u64;
            if exchange.from == Others::Nobody {
                link.prefetch_item();
            }
        }
        Ok(world)
    }

    /// Receives the items, uses them and consumes them.
    ///
    /// # Safety
    /// The same as for [`Executor::exchange`].
    #[inline]
    unsafe fn take(&mut self, exchange: &Exchange<'_>, words: &[u64; 3]) -> Result<Progress> {
        let (me, world) = (self.rank, self.links.len() as u32);
        let mut items = [ptr::null::<u8>(); MOST_RANKS as usize];
        let expected = |peer| match &exchange.take {
            Use::Copied { to, .. } => to.of(peer).len,
            Use::Reduced { own, .. } => own.len,
        };
        let mut looks = self.pause.looks();
        // Without a pause the processor loads the peer's item too early, and then has to load it again.
        hint::spin_loop();
        for peer in exchange.from.ranks(world) {
            let (Some(Some(link)), Some(item)) = (self.links.get_mut(peer as usize), items.get_mut(peer as usize))
            else {
                continue;
            };
            let len = expected(peer);
            let shown = match link.peek_exact(HEADER + len) {
                Some(at) => Some((at, HEADER + len)),
                None => await_item(link, len, &mut looks).map_err(|e| broken(&self.health, peer, e))?,
            };
            match shown.and_then(|shown| payload(shown, words, len)) {
                Some(payload) => *item = payload,
                // The item is late, is not contiguous, or is not of this call.
                None => return Ok(Progress::Written(world)),
            }
        }
        match &exchange.take {
            Use::Copied { to, own } => {
                if *own {
                    items[me as usize] = exchange.send.of(me).at;
                }
                for (peer, from) in (0..).zip(&items[..world as usize]).filter(|(_, from)| !from.is_null()) {
                    let to = to.of(peer);
                    // SAFETY: the item has the length of the block, which `payload` checked. This rank's own bytes have
                    // the same length, since dispatch validated the call.
                    unsafe { ptr::copy(*from, to.at, to.len) };
                }
            }
            Use::Reduced { own, to, by } if own.len > 0 => {
                items[me as usize] = own.at;
                // SAFETY: there is a source for each rank of the world, and each has `own.len` bytes.
                unsafe { (by.last)(*to, &items[..world as usize], own.len / by.elem, by.scale) };
            }
            Use::Reduced { .. } => {}
        }
        for peer in exchange.from.ranks(world) {
            if let Some(Some(link)) = self.links.get_mut(peer as usize) {
                link.consume_item(HEADER + expected(peer));
            }
        }
        Ok(Progress::Done)
    }
}

/// Returns the header of an item with `len` bytes of payload.
#[inline]
fn header(words: &[u64; 3], len: usize) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    for (bytes, word) in head.chunks_exact_mut(8).zip(words.iter().copied().chain([len as u64])) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    head
}

/// Writes an item into the mailbox. Writes the item into the ring instead if it is too large for the mailbox, or if the
/// mailbox is still full after the last check of `looks`. Returns `false` if there is no room in the ring either.
///
/// # Safety
/// The bytes of `block` are readable.
#[inline]
unsafe fn write(link: &mut Link, head: &[u8; HEADER], block: Bytes, looks: &mut Looks) -> Result<bool> {
    // SAFETY, for all unsafe blocks below: the caller guarantees that the bytes are readable.
    if block.len <= MAIL_BYTES {
        loop {
            // SAFETY: as above.
            if unsafe { link.write_item(head, block.at, block.len) }? {
                return Ok(true);
            }
            if !looks.another(|| link.is_one_core()) {
                break;
            }
        }
    }
    // SAFETY: as above.
    unsafe { link.write_whole(head, block.at, block.len) }
}

/// Waits for the next item, which has `len` bytes of payload, until `looks` has no more checks. Returns `None` if the
/// item is late, or if its bytes are not contiguous.
#[inline]
fn await_item(link: &mut Link, len: usize, looks: &mut Looks) -> Result<Option<(*const u8, usize)>> {
    loop {
        match link.peek_item()? {
            Item::Here(at, len) => return Ok(Some((at, len))),
            Item::Elsewhere => match link.peek_whole(HEADER + len)? {
                Some((at, there)) => return Ok((there >= HEADER + len).then_some((at, HEADER + len))),
                None if looks.another(|| link.is_one_core()) => {}
                None => return Ok(None),
            },
            Item::NotYet if looks.another(|| link.is_one_core()) => {}
            Item::NotYet => return Ok(None),
        }
    }
}

/// Returns the payload of an item. Returns `None` if the item belongs to another call or has another length.
#[inline]
fn payload((at, len): (*const u8, usize), words: &[u64; 3], expected: usize) -> Option<*const u8> {
    if len != HEADER + expected {
        return None;
    }
    // SAFETY: the item has at least `HEADER` bytes; the reads are unaligned.
    let (theirs, total) = unsafe { (at.cast::<[u64; 3]>().read_unaligned(), at.cast::<u64>().add(3).read_unaligned()) };
    let same = theirs.map(u64::from_le) == *words && u64::from_le(total) == expected as u64;
    // SAFETY: the item has `HEADER` bytes and more.
    same.then(|| unsafe { at.add(HEADER) })
}
