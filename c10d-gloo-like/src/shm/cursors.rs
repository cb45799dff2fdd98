//! The cursors of the two ends of a ring, in shared memory.

use std::sync::atomic::AtomicU64;

/// One cursor, alone in a pair of cache lines, since processors prefetch lines in pairs.
#[repr(C, align(128))]
pub(super) struct Cursor(pub(super) AtomicU64);

/// The writer's cursor, and in the same cache line the position of the last record plus 1, or 0 if there is no record
/// yet. A record stands for bytes that the reader reads in place.
#[repr(C, align(128))]
pub(super) struct Head(pub(super) AtomicU64, pub(super) AtomicU64);

/// The two cursors of a ring, in the writer's segment.
#[repr(C)]
pub(super) struct Cursors {
    pub(super) head: Head,
    pub(super) tail: Cursor,
}
