//! The state of this rank that peers can ask for.

use std::sync::OnceLock;
use std::time::Instant;

use c10d_core::sync::Mutex;

use crate::mesh::doing::{Refused, Wait};
use c10d_core::calls::CallId;

/// A function that returns the waits of this rank's messages and how many messages it has called so far; `None` if the
/// state of the messages is in use.
pub(crate) type Messages = Box<dyn Fn() -> Option<(Vec<Wait>, u64)> + Send + Sync>;

/// The state of this rank besides its position.
#[derive(Default)]
pub(super) struct Own {
    /// The ranks for which a stalled collective waits.
    pub(super) waits: Mutex<Option<(CallId, Wait)>>,
    pub(super) messages: OnceLock<Messages>,
    /// The time at which the peers were last asked because a message waits.
    pub(super) looked: Mutex<Option<Instant>>,
    /// The last rejected call, and how many collectives and messages had been called before it.
    pub(super) refused: Mutex<Option<(Refused, (u64, u64))>>,
}
