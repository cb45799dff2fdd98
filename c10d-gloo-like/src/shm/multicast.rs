//! A ring for bytes that a rank sends to several peers. The rank copies these bytes once, and all peers read the copy.
//!
//! Each peer has cursors of its own, and reads the ring like any other ring. A record in the peer's ring for
//! collectives (see [`super::lent`]) stands for an item in this ring, and has the item's position.
//!
//! The steps that send an item to the peers advance one after another. The step that is ahead copies bytes into the
//! ring. The steps behind it only publish these bytes to their peers.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::Result;

use super::RingKind;
use super::ring::{LINE, Writer};
use super::segment::{SMALLEST_MULTICAST, Segment};

/// The smallest number of bytes that is sent in this way. It is larger than any item of an exchange
/// (`exec::exchange`).
pub(crate) const LEAST: usize = 32 << 10;
/// The smallest number of bytes that need not be copied because of the multicast. If fewer bytes are saved, the peers
/// get them earlier through their own rings.
const LEAST_SAVED: usize = 128 << 10;
/// The largest number of bytes that a rank copies before it continues with other steps. With more bytes, the peers
/// start later.
const CHUNK: usize = 128 << 10;
const _: () = assert!(CHUNK <= SMALLEST_MULTICAST);

/// Whether it is faster to send `len` bytes to so many peers by a multicast. The limits are measured.
#[inline]
pub(crate) fn pays(len: usize, copies: u32) -> bool {
    len >= LEAST && (copies as usize - 1).saturating_mul(len) >= LEAST_SAVED
}

/// The bytes that a rank sends to several peers: all bytes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) at: *const u8,
    pub(crate) len: usize,
    /// The number of peers that get the bytes.
    pub(crate) copies: u32,
}

// SAFETY: the address is used only while a caller of `Multicast::advance` guarantees that it is readable.
unsafe impl Send for Payload {}

/// The item that is being sent.
struct Item {
    payload: Payload,
    /// The item's position in the ring.
    start: u64,
    /// How many peers have been told of the item.
    begun: u32,
    /// To how many peers the whole item has been published.
    ended: u32,
}

/// One peer's view of the ring.
struct Peer {
    ring: Writer,
    /// The position of the newest item that this peer was told of.
    start: u64,
    /// Whether this item has not been published completely.
    is_behind: bool,
}

/// The writing end of a rank's multicast ring.
pub(crate) struct Multicast {
    peers: Vec<Peer>,
    capacity: u64,
    /// The position up to which the ring has been written.
    at: u64,
    item: Option<Item>,
}

impl Multicast {
    /// Makes the writing end of this rank's ring. `peers` are the ranks on this host except this rank, in ascending
    /// order. Returns `None` if the segment has no such ring, since there are too few peers.
    pub(crate) fn new(own: &Arc<Segment>, peers: impl Iterator<Item = u32>) -> Option<Multicast> {
        if own.multicast_peers() == 0 {
            return None;
        }
        let ring = |(i, peer)| Writer::new(own.clone(), i, RingKind::Multicast, peer);
        let peers: Vec<_> = (0..).zip(peers).map(ring).map(|ring| Peer { ring, start: 0, is_behind: false }).collect();
        let capacity = own.ring(0, RingKind::Multicast).2 as u64;
        Some(Multicast { peers, capacity, at: 0, item: None })
    }

    /// Begins to send an item to the peer with this index, and returns the item's position. Returns `None` while the
    /// item before it is being sent to other peers. This peer must have read its last item.
    pub(super) fn begin(&mut self, peer: usize, payload: Payload) -> Option<u64> {
        let start = self.at.next_multiple_of(LINE);
        let item = self.item.get_or_insert(Item { payload, start, begun: 0, ended: 0 });
        if item.payload != payload || item.begun == payload.copies {
            return None;
        }
        if item.begun == 0 {
            self.at = item.start;
        }
        item.begun += 1;
        let peer = &mut self.peers[peer];
        (peer.start, peer.is_behind) = (item.start, true);
        peer.ring.move_to(item.start);
        Some(item.start)
    }

    /// Publishes to the peer with this index more bytes of the item, but at most the first `ready` bytes. Copies them
    /// into the ring if no other step has done so. Returns how many of the item's bytes are published to this peer, and
    /// whether there was no room because this peer is the one that has read least.
    ///
    /// # Safety
    /// The first `ready` bytes of the item are readable. `begin` was called for this item and peer.
    pub(super) unsafe fn advance(&mut self, index: usize, ready: usize) -> Result<(usize, bool)> {
        let Some(Item { payload, start, .. }) = self.item else { return Ok((0, false)) };
        let published = self.peers[index].ring.at();
        let mut waits = false;
        if published < self.at {
            self.peers[index].ring.move_to(self.at.min(start + ready as u64));
        } else {
            let done = (published - start) as usize;
            let (free, last) = self.free()?;
            let n = (ready - done).min(CHUNK).min(free);
            // SAFETY: the caller guarantees that the bytes are readable. There is room for `n` bytes.
            unsafe { self.peers[index].ring.append(payload.at.add(done), n) };
            self.at += n as u64;
            waits = free == 0 && last == Some(index);
        }
        let done = (self.peers[index].ring.at() - start) as usize;
        if done == payload.len {
            self.peers[index].is_behind = false;
            if let Some(item) = &mut self.item {
                item.ended += 1;
                if item.ended == payload.copies {
                    self.item = None;
                }
            }
        }
        Ok((done, waits))
    }

    /// Returns how many bytes can be written without overwriting bytes that a peer has not read, and the peer that has
    /// read least, if it was told of its item. If the ring is full and an item begins after some unused bytes, more
    /// than the whole ring is in use; then there is no room.
    fn free(&mut self) -> Result<(usize, Option<usize>)> {
        let mut oldest = match &self.item {
            Some(item) if item.begun < item.payload.copies => item.start,
            _ => self.at,
        };
        let mut last = None;
        for (i, peer) in self.peers.iter_mut().enumerate() {
            let read = peer.ring.reader_at()?.max(peer.start);
            if (peer.is_behind || read < peer.ring.at()) && read < oldest {
                (oldest, last) = (read, Some(i));
            }
        }
        Ok((self.capacity.saturating_sub(self.at - oldest) as usize, last))
    }
}

#[cfg(test)]
#[path = "multicast_tests.rs"]
mod tests;
