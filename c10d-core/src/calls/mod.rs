//! Checks whether all ranks make the same calls.
//!
//! A rank that receives in a call compares the fingerprints of its peers with its own. A rank that only sends receives
//! no fingerprint: for example, the root of a broadcast, or a rank of a reduce that is not the root. Its call is *in
//! doubt* until the rank has compared the call with those of its peers. [`Doubts`] holds the calls of a rank that are
//! in doubt, and the ranks with which they must be compared. [`Doubts`] itself asks no peers: a backend asks them over
//! any channel that the backend has. [`CallCheck`] asks them through the group's store, for backends whose library has
//! no such channel.

mod check;
mod doubts;
mod letter;
mod mismatch;

pub use check::CallCheck;
pub use doubts::{Clash, Doubt, Doubts, History, PeerCall, Progress, Whom, hub};
pub use mismatch::{about, mismatch};

use crate::backend::Fingerprint;

/// The position of an op in its lane: the number of the call, and the number of the op within the call, since a kernel
/// or a backend may run one call as several ops. The numbers of calls wrap around, so the order of two positions is
/// only defined if they are less than 2^31 calls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId {
    /// The call's number in its lane (low 32 bits).
    pub seq: u32,
    /// The number of the op within the call; 0 if the call is one op. See [`Fingerprint::step`].
    pub step: u8,
}

impl CallId {
    /// Returns the position of this call.
    pub fn of(fingerprint: &Fingerprint) -> CallId {
        CallId { seq: fingerprint.seq, step: fingerprint.step }
    }

    /// Returns whether this position is before the other.
    pub fn is_before(self, other: CallId) -> bool {
        let distance = self.seq.wrapping_sub(other.seq) as i32;
        distance < 0 || (distance == 0 && self.step < other.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_ids_are_ordered_when_numbers_wrap() {
        let place = |seq, step| CallId { seq, step };
        assert!(place(u32::MAX, 0).is_before(place(0, 0)));
        assert!(!place(0, 0).is_before(place(u32::MAX, 0)));
        assert!(place(4, 1).is_before(place(4, 2)) && !place(4, 2).is_before(place(4, 2)));
    }
}
