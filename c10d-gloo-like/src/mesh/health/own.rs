//! What a rank has to say of itself.

use std::sync::OnceLock;
use std::time::Instant;

use c10d_core::sync::Mutex;

use crate::mesh::doing::{Refused, Wait};
use c10d_core::calls::CallId;

/// What the messages of a rank wait for, and how many calls there were so far; nothing where they move too fast to say.
pub(crate) type Messages = Box<dyn Fn() -> Option<(Vec<Wait>, u64)> + Send + Sync>;

/// What a rank has to say of itself beside its place.
#[derive(Default)]
pub(super) struct Own {
    /// Whom a collective that does not go on waits for.
    pub(super) waits: Mutex<Option<(CallId, Wait)>>,
    pub(super) messages: OnceLock<Messages>,
    /// When a message last had the peers asked.
    pub(super) looked: Mutex<Option<Instant>>,
    /// The last refused call, and how many collectives and messages had been called before it.
    pub(super) refused: Mutex<Option<(Refused, (u64, u64))>>,
}
