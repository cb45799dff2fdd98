//! How far the two ends of a ring are, as it lies in shared memory.

use std::sync::atomic::AtomicU64;

/// One cursor, alone in its pair of cache lines (prefetchers fetch pairs).
#[repr(C, align(128))]
pub(super) struct Cursor(pub(super) AtomicU64);

/// The two cursors of a ring, as they lie in the writer's segment.
#[repr(C)]
pub(super) struct Cursors {
    pub(super) head: Cursor,
    pub(super) tail: Cursor,
}
