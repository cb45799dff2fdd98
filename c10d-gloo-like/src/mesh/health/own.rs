//! The state of this rank that peers can ask for.

use std::sync::OnceLock;
use std::time::Instant;

use c10d_core::sync::Mutex;

use crate::mesh::doing::{Refused, Wait};
use c10d_core::calls::CallId;

/// A function that returns the waits of this rank's messages, and the number of its point-to-point calls, or `None` if
/// another thread uses the state of the messages.
pub(crate) type Messages = Box<dyn Fn() -> Option<(Vec<Wait>, u64)> + Send + Sync>;

/// The state of this rank, except its position (how many calls it has made), which is in the call log.
#[derive(Default)]
pub(super) struct Own {
    /// The ranks for which a stalled collective waits.
    pub(super) waits: Mutex<Option<(CallId, Wait)>>,
    pub(super) messages: OnceLock<Messages>,
    /// When this rank last asked its peers for their positions for a message.
    pub(super) looked: Mutex<Option<Instant>>,
    /// The last rejected call, and the numbers of collectives and of point-to-point calls before it. If a number has
    /// changed, this rank has made another call, and does not report the rejection.
    pub(super) refused: Mutex<Option<(Refused, (u64, u64))>>,
}
