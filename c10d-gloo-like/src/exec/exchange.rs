//! Exchanges: ops whose items are so small that they fit into mailboxes. A rank writes all its items at once, and uses
//! those of its peers in place. If an item cannot be written, or does not come at once, the rank goes on by the plan of
//! the same op, in which the items that it has written count as sent.
#![allow(unsafe_code)]

use std::{hint, ptr};

use c10d_core::backend::Fingerprint;
use c10d_core::{Result, Span};

use super::Reduction;
use super::announce::HEADER;
use super::executor::Executor;
use super::failure::broken;
use crate::link::{Item, Link};
use crate::pause::Looks;

/// The largest world in which small ops are exchanges.
pub(crate) const MOST_RANKS: u32 = 8;
/// The largest payload of an item, in bytes.
pub(crate) const MOST_BYTES: usize = 1 << 10;

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

/// The bytes that are sent to each rank, or come from each rank.
#[derive(Clone, Copy)]
pub(crate) enum Parts<'a> {
    /// The same bytes for each rank.
    Whole(Bytes),
    /// One block for each rank. The blocks are consecutive and have this length; this is the first.
    Even(Bytes),
    /// One tensor for each rank.
    List(&'a [Span]),
}

impl Parts<'_> {
    #[inline]
    pub(crate) fn of(&self, rank: u32) -> Bytes {
        match self {
            Parts::Whole(bytes) => *bytes,
            Parts::Even(block) => Bytes { at: block.at.wrapping_add(block.len * rank as usize), len: block.len },
            Parts::List(spans) => spans.get(rank as usize).map_or(Bytes::NONE, Bytes::of),
        }
    }

    /// Whether each part is small enough for an item.
    #[inline]
    pub(crate) fn are_small(&self) -> bool {
        match self {
            Parts::Whole(bytes) | Parts::Even(bytes) => bytes.len <= MOST_BYTES,
            Parts::List(spans) => spans.iter().all(|span| span.bytes() <= MOST_BYTES),
        }
    }
}

/// Which of the other ranks take part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// None.
    Nobody,
    /// Only this rank.
    One(u32),
    /// All.
    All,
}

impl Others {
    /// Returns the ranks without rank `me`, in ascending order.
    #[inline]
    fn ranks(self, me: u32, world: u32) -> impl Iterator<Item = u32> + Clone {
        let range = match self {
            Others::Nobody => 0..0,
            Others::One(rank) => rank..rank + 1,
            Others::All => 0..world,
        };
        range.filter(move |rank| *rank != me)
    }
}

/// The use of the items that come.
#[derive(Clone, Copy)]
pub(crate) enum Use<'a> {
    /// Each item is copied to its block. With `own`, the block that this rank sends to itself is copied, too.
    Copied { to: Parts<'a>, own: bool },
    /// All items and this rank's own bytes are reduced, in rank order.
    Reduced { own: Bytes, to: *mut u8, by: Reduction },
}

/// An exchange, as one rank does it. Everything that it sends is read before anything is written.
#[derive(Clone, Copy)]
pub(crate) struct Exchange<'a> {
    pub(crate) to: Others,
    pub(crate) send: Parts<'a>,
    pub(crate) from: Others,
    pub(crate) take: Use<'a>,
}

impl Exchange<'_> {
    /// Whether all items are small enough.
    #[inline]
    pub(crate) fn is_small(&self) -> bool {
        let taken = match &self.take {
            Use::Copied { to, .. } => to.are_small(),
            Use::Reduced { own, .. } => own.len <= MOST_BYTES,
        };
        taken && self.send.are_small()
    }
}

/// How far an exchange came.
pub(crate) enum Progress {
    /// The exchange is complete.
    Done,
    /// The ranks below this one have been sent their items. Nothing was received.
    Written(u32),
}

impl Executor {
    /// Does an exchange as far as that takes no longer than a spin.
    ///
    /// # Safety
    /// All bytes that the exchange reads are readable, those that it writes are writable, and no other code uses them
    /// meanwhile.
    #[inline]
    pub(crate) unsafe fn exchange(&mut self, exchange: &Exchange<'_>, fingerprint: &Fingerprint) -> Result<Progress> {
        let (me, world) = (self.rank, self.links.len() as u32);
        let words = fingerprint.to_words();
        // A peer that did not make room for the last item in time may be far behind.
        let mut looks = if self.has_room { self.pause.looks() } else { Looks::NONE };
        self.has_room = true;
        for peer in exchange.to.ranks(me, world) {
            let Some(Some(link)) = self.links.get_mut(peer as usize) else { continue };
            let block = exchange.send.of(peer);
            let head = header(&words, block.len);
            // SAFETY: the caller guarantees that the bytes are readable.
            while !unsafe { link.write_item(&head, block.at, block.len) }.map_err(|e| broken(&self.health, peer, e))? {
                if !looks.another() {
                    self.has_room = false;
                    return Ok(Progress::Written(peer));
                }
            }
            self.sent += block.len as u64;
            if exchange.from == Others::Nobody {
                link.prefetch_item();
            }
        }
        // SAFETY: the caller guarantees what the function requires.
        unsafe { self.take(exchange, &words) }
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
        let peers = exchange.from.ranks(me, world);
        for peer in peers.clone() {
            let (Some(Some(link)), Some(item)) = (self.links.get_mut(peer as usize), items.get_mut(peer as usize))
            else {
                return Ok(Progress::Written(world));
            };
            let shown = await_item(link, &mut looks).map_err(|e| broken(&self.health, peer, e))?;
            match shown.and_then(|shown| payload(shown, words, expected(peer))) {
                Some(payload) => *item = payload,
                // The item is late, comes in another way, or is not of this call.
                None => return Ok(Progress::Written(world)),
            }
        }
        match &exchange.take {
            Use::Copied { to, own } => {
                for peer in peers.clone().chain(own.then_some(me)) {
                    let to = to.of(peer);
                    let from = if peer == me { exchange.send.of(me).at } else { items[peer as usize] };
                    // SAFETY: the item has the length of the block, which `payload` checked. The own bytes have it,
                    // too, since dispatch validated them.
                    unsafe { ptr::copy(from, to.at, to.len) };
                }
            }
            Use::Reduced { own, to, by } if own.len > 0 => {
                items[me as usize] = own.at;
                // SAFETY: there is a source for each rank of the world, and each has `own.len` bytes.
                unsafe { (by.last)(*to, &items[..world as usize], own.len / by.elem, by.scale) };
            }
            Use::Reduced { .. } => {}
        }
        for peer in peers {
            if let Some(Some(link)) = self.links.get_mut(peer as usize) {
                // Small items are never lent, so this cannot fail.
                let _ = link.consume(HEADER + expected(peer));
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

/// Waits for the next item as long as there are checks left. Returns `None` if the item is late, or comes in another
/// way.
#[inline]
fn await_item(link: &mut Link, looks: &mut Looks) -> Result<Option<(*const u8, usize)>> {
    loop {
        match link.peek_item()? {
            Item::Here(at, len) => return Ok(Some((at, len))),
            Item::NotYet if looks.another() => {}
            Item::NotYet | Item::Elsewhere => return Ok(None),
        }
    }
}

/// Returns the payload of an item; `None` if the item is not of this call and length.
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
