//! What all messages of a rank have in common: the communicator, the tags and the lengths of pieces.

use std::sync::Arc;

use crate::health::Health;
use crate::mpi::{Comm, Mpi};

/// The tag of headers with short data.
pub(super) const HEAD: u16 = 2;
/// The first of the tags of long data, and their number, which every library supports.
const BODY: u16 = 1 << 14;
const BODIES: u32 = 1 << 14;
/// The bytes of a piece of a long message, and how many pieces are in transfer at once.
pub(super) const PIECE: usize = 1 << 20;
pub(super) const AHEAD: usize = 2;

/// The end of all messages of one rank.
pub(super) struct Endpoint {
    pub(super) mpi: Mpi,
    pub(super) comm: Comm,
    pub(super) rank: u32,
    pub(super) size: u32,
    pub(super) health: Arc<Health>,
}

/// The tag of the long data of the message with this number.
pub(super) fn body_tag(number: u32) -> u16 {
    BODY + (number % BODIES) as u16
}
