//! What a rank knows about a peer that it has asked.

use std::time::Duration;

use super::doing::Doing;
use c10d_core::calls::CallId;

/// What is known of a peer after a query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The peer does not answer: its process is stopped or cannot be reached. `since` is the time since its last
    /// message, and `before` is its last answer.
    Silent { since: Duration, before: Option<Doing> },
    /// The peer said goodbye after call `last`, or its program ended without a goodbye (`exited`).
    Left { last: Option<CallId>, exited: bool },
    /// The peer answered, and this is what it is doing.
    At(Doing),
}

/// A silence that is too long for a scheduling delay, since waiting ranks ask each other more often than this.
pub(super) const LONG: Duration = Duration::from_millis(400);
