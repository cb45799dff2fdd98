//! The header before the first item to each peer: the call, and the number of payload bytes that follow.

use c10d_core::backend::Fingerprint;
use c10d_core::{Error, ErrorKind, Phase};

/// The header's length on the wire.
pub(super) const HEADER: usize = Fingerprint::SIZE + 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) fingerprint: Fingerprint,
    /// The number of payload bytes that the sender sends to the receiver in this op.
    pub(super) total: u64,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..Fingerprint::SIZE].copy_from_slice(&self.fingerprint.to_bytes());
        out[Fingerprint::SIZE..].copy_from_slice(&self.total.to_le_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8; HEADER]) -> Header {
        let mut fingerprint = [0; Fingerprint::SIZE];
        fingerprint.copy_from_slice(&bytes[..Fingerprint::SIZE]);
        let mut total = [0; 8];
        total.copy_from_slice(&bytes[Fingerprint::SIZE..]);
        Header { fingerprint: Fingerprint::from_bytes(&fingerprint), total: u64::from_le_bytes(total) }
    }
}

/// Makes the error for calls that differ only in the number of bytes that `peer` sends to this rank.
#[cold]
pub(super) fn length_error(peer: u32, uneven: bool, elem: usize, mine: u64, theirs: u64) -> Error {
    let elem = elem.max(1) as u64;
    let field = if uneven { "splits" } else { "count" };
    let kind = ErrorKind::Mismatch { field, mine: (mine / elem).to_string(), theirs: (theirs / elem).to_string() };
    let what = format!("this is the number of elements that rank {peer} sends to this rank");
    Error::new(kind, what).guilty([peer]).phase(Phase::Announce)
}
