//! The slots of a mailbox, which are in the writer's segment.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// The number of slots of a mailbox if a rank has few peers.
pub(super) const MANY: u32 = 32;
/// The number of slots of a mailbox if a rank has many peers, so that the rank's segment stays small.
pub(super) const FEW: u32 = 8;
/// The size of a slot in bytes: 1 KiB of payload, the header and the word, in whole pairs of cache lines.
const SLOT: usize = 1152;
/// The largest number of bytes of an item, header included.
pub(super) const MOST: usize = SLOT - size_of::<AtomicU64>();

#[repr(C, align(128))]
pub(super) struct Slot {
    /// A packed [`Word`].
    pub(super) word: AtomicU64,
    pub(super) bytes: [u8; MOST],
}

/// The number of items that the reader has taken. In the segment, the slots follow this number.
#[repr(C, align(128))]
pub(super) struct Taken(pub(super) AtomicU32);

/// Returns the size of a mailbox with this many slots, in bytes.
pub(super) const fn size(slots: u32) -> usize {
    size_of::<Taken>() + slots as usize * size_of::<Slot>()
}

/// The data about an item that its slot contains besides the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// The number of the item, counted from 1; 0 if the slot has had no item.
    pub(super) number: u32,
    pub(super) len: u16,
    /// The low 16 bits of the ring's line at which the item would begin. This line gives the item's position among the
    /// items of the ring.
    pub(super) line: u16,
}

impl Word {
    #[inline]
    pub(super) fn pack(self) -> u64 {
        u64::from(self.number) | u64::from(self.len) << 32 | u64::from(self.line) << 48
    }

    #[inline]
    pub(super) fn unpack(word: u64) -> Word {
        Word { number: word as u32, len: (word >> 32) as u16, line: (word >> 48) as u16 }
    }
}
