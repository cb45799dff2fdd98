//! Checks the contents of frames from peers. A frame that names ranks outside the group, or that cannot be true, is an
//! error of its sender. The handshake established the sender's rank. What a frame says about other ranks is not
//! verified.

use c10d_core::OpKind;

use super::control::Frame;
use super::doing::Doing;
use c10d_core::calls::CallId;

/// Checks a frame that rank `from` sent to rank `me` of a group of `size` ranks. Returns why the frame is invalid, if
/// it is.
pub(super) fn objection(frame: &Frame, from: u32, me: u32, size: u32) -> Option<String> {
    let outside = |rank: u32| rank >= size;
    match frame {
        Frame::Query { .. } | Frame::Ask { .. } | Frame::Goodbye { .. } | Frame::Exited { .. } => None,
        // These frames are about a third rank, which is neither the sender nor the receiver.
        Frame::Reach { of } | Frame::Reached { of, .. } if outside(*of) || *of == from || *of == me => Some(format!(
            "it sent a question or an answer about rank {of}, which must be a rank of the group ({size} ranks) \
                 other than the sender and the receiver"
        )),
        Frame::Reach { .. } | Frame::Reached { .. } => None,
        Frame::State { place, doing, fingerprint, .. } => {
            if fingerprint.is_some_and(|f| CallId::of(&f) != *place) {
                return Some(format!("asked for its call at seq {}, it answered with another call", place.seq));
            }
            doing_objection(doing, size)
        }
        Frame::Revoke(revoke) => {
            let named = revoke.guilty.iter().copied();
            let compared = revoke.fingerprints.iter().flatten().map(|(rank, _)| *rank);
            let mut all = std::iter::once(revoke.by).chain(revoke.via).chain(named).chain(compared);
            if let Some(rank) = all.find(|rank| outside(*rank)) {
                return Some(format!("it named rank {rank} in a group of {size}"));
            }
            match &revoke.fingerprints {
                Some([(a, _), (b, _)]) if a == b => Some(format!("it compared rank {a} with itself")),
                _ => None,
            }
        }
        Frame::Calls { history, .. } => {
            let early = history.calls.iter().all(|(number, _)| *number < history.until);
            (!early).then(|| format!("it listed calls beyond the {} that it has made", history.until))
        }
    }
}

fn doing_objection(doing: &Doing, size: u32) -> Option<String> {
    let waited_for = doing.waits.iter().flat_map(|wait| &wait.on);
    if let Some(rank) = waited_for.copied().find(|rank| *rank >= size) {
        return Some(format!("it reported a wait for rank {rank} in a group of {size}"));
    }
    let ops = doing.waits.iter().map(|wait| wait.op).chain(doing.refused.iter().map(|refused| refused.op));
    let unknown = ops.into_iter().find(|op| OpKind::from_code(*op).is_none());
    unknown.map(|op| format!("it named op {op}, which does not exist"))
}
