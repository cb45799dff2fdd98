//! The state of this rank that it tells others.

use std::sync::OnceLock;
use std::time::Instant;

use c10d_core::sync::Mutex;

use crate::mesh::doing::{Refused, Wait};
use c10d_core::calls::CallId;

/// Returns the waits of the rank's messages and the number of calls so far; `None` if they move too fast to tell.
pub(crate) type Messages = Box<dyn Fn() -> Option<(Vec<Wait>, u64)> + Send + Sync>;

/// The state of this rank besides its position.
#[derive(Default)]
pub(super) struct Own {
    /// The ranks for which a stalled collective waits.
    pub(super) waits: Mutex<Option<(CallId, Wait)>>,
    pub(super) messages: OnceLock<Messages>,
    /// When the peers were last asked for a message.
    pub(super) looked: Mutex<Option<Instant>>,
    /// The last rejected call, and how many collectives and messages had been called before it.
    pub(super) refused: Mutex<Option<(Refused, (u64, u64))>>,
}
