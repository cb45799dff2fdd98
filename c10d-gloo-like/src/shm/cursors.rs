//! The cursors of the two ends of a ring, in shared memory.

use std::sync::atomic::AtomicU64;

/// The writer's cursor, and the position of the last record plus 1 (0 if there is no record yet). A record stands in
/// the ring for lent bytes. These two values are alone in a pair of cache lines, since processors prefetch lines in
/// pairs.
#[repr(C, align(128))]
pub(super) struct Head(pub(super) AtomicU64, pub(super) AtomicU64);

/// The reader's cursor, and two values about lent bytes that the reader tells the writer.
#[repr(C, align(128))]
pub(super) struct Tail {
    pub(super) at: AtomicU64,
    /// Not 0 if the reader can read private memory of the writer.
    pub(super) reads_private: AtomicU64,
    /// The number of lent bytes that the reader could not read when it passed the last record: the last bytes for which
    /// this record stands. The writer must send them through the ring.
    pub(super) refused: AtomicU64,
}

/// The two cursors of a ring, in the writer's segment.
#[repr(C)]
pub(super) struct Cursors {
    pub(super) head: Head,
    pub(super) tail: Tail,
}
