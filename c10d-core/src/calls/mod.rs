//! Checks whether all ranks make the same calls, for backends whose library does not.
//!
//! A rank that receives compares the fingerprints that it gets. A root that only sends, or a rank that only sends to a
//! root, hears from no peer, so its calls must be compared afterwards. [`Doubts`] holds the calls that are still to be
//! compared, and with which ranks; a backend asks and answers over any channel that it has. [`CallCheck`] does so
//! through the group's store.

mod check;
mod doubts;
mod letter;
mod mismatch;

pub use check::CallCheck;
pub use doubts::{Clash, Doubt, Doubts, History, Known, Progress, Whom, hub};
pub use mismatch::{about, mismatch};

use crate::backend::Fingerprint;

/// A call's place in its lane: its number, and the step within it. Numbers wrap around, so two places can be ordered
/// only if they are less than 2^31 calls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId {
    /// The call's number in its lane (low 32 bits).
    pub seq: u32,
    /// The step of a composed op.
    pub step: u8,
}

impl CallId {
    /// The place of this call.
    pub fn of(fingerprint: &Fingerprint) -> CallId {
        CallId { seq: fingerprint.seq, step: fingerprint.step }
    }

    /// Whether it comes before the other.
    pub fn is_before(self, other: CallId) -> bool {
        let distance = self.seq.wrapping_sub(other.seq) as i32;
        distance < 0 || (distance == 0 && self.step < other.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_wrap() {
        let place = |seq, step| CallId { seq, step };
        assert!(place(u32::MAX, 0).is_before(place(0, 0)));
        assert!(!place(0, 0).is_before(place(u32::MAX, 0)));
        assert!(place(4, 1).is_before(place(4, 2)) && !place(4, 2).is_before(place(4, 2)));
    }
}
