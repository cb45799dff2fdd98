//! The data that all messages of a rank share: the communicator, the tags and the size of pieces.

use std::sync::Arc;

use crate::health::Health;
use crate::mpi::{Comm, Mpi};

/// The tag of headers. The data of a short message are in the same MPI message as its header.
pub(super) const HEAD: u16 = 2;
/// The first tag for the data of long messages, and the number of such tags. The last of these tags is 32767, which
/// every MPI library supports.
const BODY: u16 = 1 << 14;
const BODIES: u32 = 1 << 14;
/// The size of a piece of a long message in bytes, and the largest number of pieces of one message that are in transfer
/// at the same time.
pub(super) const PIECE: usize = 1 << 20;
pub(super) const AHEAD: usize = 2;

/// The endpoint of all messages of one rank.
pub(super) struct Endpoint {
    pub(super) mpi: Mpi,
    pub(super) comm: Comm,
    pub(super) rank: u32,
    pub(super) size: u32,
    pub(super) health: Arc<Health>,
}

/// Returns the tag for the data of the long message with this number.
pub(super) fn body_tag(number: u32) -> u16 {
    BODY + (number % BODIES) as u16
}
