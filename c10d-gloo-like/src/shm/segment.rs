//! A rank's segment: memory that the rank made and that its peers on the host map.
//!
//! The first page has the [`Header`] with the rank's state. The rest has rings for each peer on the host, one for each
//! [`RingKind`]. The rank writes to these rings, and the peer reads from them. The multicast rings of all peers have
//! the same bytes. Each ring except these has a mailbox. The order is: the cursors of all rings, all mailboxes, the
//! bytes of all rings.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use c10d_core::shm::{check_room, memfd, reserve};
use c10d_core::{Error, ErrorKind, Result};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;

use super::bell::Bell;
use super::cursors::Cursors;
use super::peer_memory::{Mark, Origin, PeerMemory};
use super::slots::{self, Taken};
use crate::call_log::CallLog;

const PAGE: usize = 4096;
/// Rings do not shrink below this number of bytes, however many peers there are.
const SMALLEST_RING: usize = 16 << 10;
/// While a segment would be larger than this number of bytes, its rings shrink, down to `SMALLEST_RING`. The smallest
/// multicast ring is not counted.
const LARGEST_SEGMENT: usize = 4 << 20;
/// The smallest size of a multicast ring.
pub(super) const SMALLEST_MULTICAST: usize = 128 << 10;
/// Up to this many peers, mailboxes are large, and all pages of a segment are mapped at once.
const FEW_PEERS: usize = 7;
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The kind of ring between two ranks. Point-to-point traffic has a kind of its own, so that it does not queue behind
/// collectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingKind {
    Collective,
    PointToPoint,
    /// Payload of collectives that a rank sends to several peers, see [`super::multicast`].
    Multicast,
}

impl RingKind {
    const COUNT: usize = 3;
    /// The number of kinds that have mailboxes.
    const WITH_MAILBOX: usize = 2;
}

/// The layout of a segment: a pure function of the number of peers and the requested sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    peers: usize,
    /// The sizes of the rings, by kind. A rank with fewer than two peers has no multicast ring.
    rings: [usize; RingKind::COUNT],
}

impl Layout {
    /// The size of a ring for collectives, which was chosen by measurements (`link_speed_tests.rs`).
    pub(crate) const COLLECTIVE: usize = 256 << 10;
    /// The size of a ring for point-to-point ops.
    pub(crate) const POINT_TO_POINT: usize = 128 << 10;
    /// The size of the ring for multicasts, which was chosen by measurements of broadcasts.
    pub(crate) const MULTICAST: usize = 512 << 10;

    /// Makes the usual layout for this many peers on the host.
    pub(crate) fn new(peers: usize) -> Layout {
        Layout::with_rings(peers, Layout::COLLECTIVE, Layout::POINT_TO_POINT)
    }

    /// Makes a layout with rings of about these sizes. The actual sizes are powers of two, and smaller if there are
    /// many peers.
    pub(crate) fn with_rings(peers: usize, collective: usize, point_to_point: usize) -> Layout {
        let [collective, point_to_point] = [collective, point_to_point].map(|n| n.max(64).next_power_of_two());
        let mut layout = Layout { peers, rings: [collective, point_to_point, 0] };
        while layout.size() > LARGEST_SEGMENT && layout.rings.iter().any(|n| *n > SMALLEST_RING) {
            layout.rings = layout.rings.map(|n| (n / 2).max(SMALLEST_RING.min(n)));
        }
        if peers >= 2 {
            let fits = layout.size() + Layout::MULTICAST <= LARGEST_SEGMENT;
            layout.rings[2] = if fits { Layout::MULTICAST } else { SMALLEST_MULTICAST };
        }
        layout
    }

    /// Returns this layout without a multicast ring.
    pub(crate) fn without_multicast(mut self) -> Layout {
        self.rings[2] = 0;
        self
    }

    /// Returns the size of the segment in bytes.
    pub(crate) fn size(&self) -> usize {
        self.data() + self.peers * (self.rings[0] + self.rings[1]) + self.rings[2]
    }

    /// Returns the number of slots of a mailbox, a power of two.
    fn slots(&self) -> u32 {
        if self.peers <= FEW_PEERS { slots::MANY } else { slots::FEW }
    }

    fn mailboxes(&self) -> usize {
        PAGE + self.peers * RingKind::COUNT * size_of::<Cursors>()
    }

    fn data(&self) -> usize {
        (self.mailboxes() + self.peers * RingKind::WITH_MAILBOX * slots::size(self.slots())).next_multiple_of(PAGE)
    }

    fn mailbox(&self, peer: usize, kind: RingKind) -> usize {
        assert!(peer < self.peers && kind != RingKind::Multicast);
        self.mailboxes() + (peer * RingKind::WITH_MAILBOX + kind as usize) * slots::size(self.slots())
    }

    /// Returns the offsets of the cursors and the bytes of a ring, and its capacity.
    pub(super) fn ring(&self, peer: usize, kind: RingKind) -> (usize, usize, usize) {
        assert!(peer < self.peers);
        let cursors = PAGE + (peer * RingKind::COUNT + kind as usize) * size_of::<Cursors>();
        let [collective, point_to_point, _] = self.rings;
        let before = match kind {
            RingKind::Collective => peer * collective,
            RingKind::PointToPoint => self.peers * collective + peer * point_to_point,
            RingKind::Multicast => self.peers * (collective + point_to_point),
        };
        (cursors, self.data() + before, self.rings[kind as usize])
    }
}

/// The first page of a segment.
#[repr(C)]
pub(crate) struct Header {
    pub(super) bell: Bell,
    /// The number of the core on which the owner last waited, plus 1. 0 if the owner has not waited yet.
    pub(super) core: AtomicU32,
    /// Not 0 if the group has failed on the owner. The owner may then change the memory that it lent its peers.
    pub(crate) revoked: AtomicU32,
    /// How peers read the private memory of the owner.
    pub(super) origin: Origin,
    pub(crate) call_log: CallLog,
}

const _: () = assert!(size_of::<Header>() <= PAGE);

/// A mapped segment.
pub(crate) struct Segment {
    map: MmapRaw,
    fd: OwnedFd,
    layout: Layout,
    /// The owner's process, if this rank may read that process's memory, see [`super::peer_memory`].
    process: Option<i32>,
    /// The mark in this process's memory, if this is the rank's own segment.
    mark: Option<Mark>,
}

impl Segment {
    /// Makes this rank's segment. All its memory is allocated here, since a later lack of memory could not be reported.
    pub(crate) fn create(layout: Layout) -> Result<Segment> {
        let size = layout.size();
        let refused = |what: String| Error::new(ErrorKind::Resource, what);
        let hint = "use the TCP transport or fewer ranks per host, or raise the limit";
        check_room("a shared segment", size, 2).map_err(|e| refused(format!("{}: {hint}", e.report().what)))?;
        let fd = memfd().map_err(|e| refused(format!("no shared memory (memfd_create): {hint}")).caused_by(e))?;
        reserve(fd.as_fd(), size)
            .map_err(|e| refused(format!("no memory for a shared segment of {size} bytes: {hint}")).caused_by(e))?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)
            .map_err(|e| refused(format!("a shared segment cannot be sealed: {hint}")).caused_by(e))?;
        Segment::map(fd, layout)
    }

    /// Maps a peer's segment. The segment must be sealed, so that it cannot shrink, and must have the size of `layout`.
    pub(crate) fn attach(fd: OwnedFd, layout: Layout) -> Result<Segment> {
        let wrong = |what: &str| Error::new(ErrorKind::Protocol, format!("the peer's shared segment {what}"));
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|e| wrong("is not a memfd").caused_by(e))?;
        if !seals.contains(SEALS) {
            return Err(wrong("is not sealed"));
        }
        let stat = rustix::fs::fstat(&fd).map_err(|e| wrong("has no size").caused_by(e))?;
        if stat.st_size != layout.size() as i64 {
            return Err(wrong(&format!("has {} bytes instead of {}", stat.st_size, layout.size())));
        }
        Segment::map(fd, layout)
    }

    fn map(fd: OwnedFd, layout: Layout) -> Result<Segment> {
        let file = File::from(fd);
        let mut options = MmapOptions::new();
        options.len(layout.size());
        // With many peers, most rings are never used, so their pages are not mapped here.
        if layout.peers <= FEW_PEERS {
            options.populate();
        }
        let map = options
            .map_raw(&file)
            .map_err(|e| Error::new(ErrorKind::Resource, "a shared segment cannot be mapped").caused_by(e))?;
        Ok(Segment { map, fd: file.into(), layout, process: None, mark: None })
    }

    /// Lets peers read the private memory of this process, as far as the kernel allows it. This must be called before
    /// the descriptor is sent to the peers.
    pub(crate) fn publish_process(&mut self) -> Result {
        let mark = Mark::new()?;
        mark.publish(&self.header().origin);
        self.mark = Some(mark);
        self.process = Some(std::process::id() as i32);
        Ok(())
    }

    /// Sets the process of the owner, which is a peer.
    pub(crate) fn of_process(mut self, process: Option<i32>) -> Segment {
        self.process = process;
        self
    }

    /// Returns the memory of the owner, which is a peer, if this process can read it. `own` is the segment of this
    /// rank. A rank that does not publish its own process does not read the memory of peers.
    pub(super) fn memory(&self, own: &Segment) -> Option<PeerMemory> {
        own.mark.as_ref()?;
        PeerMemory::open(self.process?, &self.header().origin)
    }

    /// Returns the number of peers that share a multicast ring of this segment; 0 if there is no such ring.
    pub(super) fn multicast_peers(&self) -> usize {
        if self.layout.rings[RingKind::Multicast as usize] > 0 { self.layout.peers } else { 0 }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the map is page-aligned, has at least one page, lives as long as `self`, and cannot shrink, since it
        // is sealed. A header consists of atomics, for which every bit pattern is valid, whatever a peer writes.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    /// Wakes the owner, if it sleeps.
    pub(crate) fn ring_bell(&self) {
        self.header().bell.ring();
    }

    /// Returns the position up to which the owner has written its multicast ring.
    #[cfg(test)]
    pub(crate) fn multicast_position(&self) -> u64 {
        let cursors = (0..self.multicast_peers()).map(|peer| self.ring(peer, RingKind::Multicast).0);
        // SAFETY: the cursors are in the map, and consist of atomics.
        let heads = cursors.map(|cursors| unsafe { &(*cursors).head.0 }.load(std::sync::atomic::Ordering::Relaxed));
        heads.max().unwrap_or(0)
    }

    /// Whether these bytes are somewhere in the segment.
    #[cfg(test)]
    pub(crate) fn has(&self, bytes: &[u8]) -> bool {
        // SAFETY: the map has this length. The tests write nothing to it during this call.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) }
            .windows(bytes.len())
            .any(|w| w == bytes)
    }

    /// Returns a ring's cursors, bytes and capacity. The pointers are valid as long as the segment.
    pub(super) fn ring(&self, peer: usize, kind: RingKind) -> (*const Cursors, *mut u8, usize) {
        let (cursors, data, capacity) = self.layout.ring(peer, kind);
        let base = self.map.as_mut_ptr();
        // SAFETY: `Layout::ring` stays inside `Layout::size`, which is the map's length.
        unsafe { (base.add(cursors).cast(), base.add(data), capacity) }
    }

    /// Returns a mailbox and the number of its slots. The mailbox begins with the number of taken items. The pointer is
    /// valid as long as the segment.
    pub(super) fn mailbox(&self, peer: usize, kind: RingKind) -> (*const Taken, u32) {
        // SAFETY: `Layout::mailbox` stays inside `Layout::size`, which is the map's length.
        (unsafe { self.map.as_mut_ptr().add(self.layout.mailbox(peer, kind)).cast() }, self.layout.slots())
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
