//! The knowledge of a rank about a peer that it has asked.

use std::time::Duration;

use super::doing::Doing;
use c10d_core::calls::CallId;

/// What is known of a peer when a deadline has passed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// It does not answer: its process is stopped or cannot be reached. `since`: how long ago its last message came;
    /// `before`: what it was doing then.
    Silent { since: Duration, before: Option<Doing> },
    /// It said goodbye after this call, or its program ended.
    Left { last: Option<CallId>, exited: bool },
    /// It answered, and is doing this.
    At(Doing),
}

/// A silence that is too long for a delay by scheduling, since waiting ranks ask each other more often than this.
pub(super) const LONG: Duration = Duration::from_millis(400);
