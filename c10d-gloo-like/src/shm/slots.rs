//! The slots of a mailbox, as they lie in the writer's segment.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// How many items can wait for their reader.
pub(super) const SLOTS: u32 = 8;
/// Bytes of a slot: 1 KiB of payload, and what goes before it, in whole pairs of cache lines.
const SLOT: usize = 1152;
/// The most bytes of an item, header included.
pub(super) const MOST: usize = SLOT - size_of::<AtomicU64>();

/// An item, as it lies in the writer's segment.
#[repr(C, align(128))]
pub(super) struct Slot {
    /// A [`Word`].
    pub(super) word: AtomicU64,
    pub(super) bytes: [u8; MOST],
}

/// The slots of one writer and one reader, and how many items the reader has taken.
#[repr(C, align(128))]
pub(super) struct Slots {
    pub(super) slots: [Slot; SLOTS as usize],
    pub(super) taken: AtomicU32,
}

/// What a slot says of its item.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// Which item it is, counted from 1; 0 where there was none.
    pub(super) number: u32,
    pub(super) len: u16,
    /// The line of the ring at which it stands (low 16 bits).
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
