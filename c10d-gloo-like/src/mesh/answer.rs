//! The result of a rank's query to a peer.

use std::time::Duration;

use super::doing::Doing;
use c10d_core::calls::CallId;

/// The result of a query to one peer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The peer has not answered this query: its process is stopped, cannot be reached, or is late. `before` is its
    /// last answer to an earlier query, `since` ago.
    Silent { since: Duration, before: Option<Doing> },
    /// The peer said goodbye after call `last`, or its program ended without a goodbye (`exited`).
    Left { last: Option<CallId>, exited: bool },
    /// The peer reported what it is doing.
    At(Doing),
}

/// A rank that has been silent for this long counts as stopped or unreachable, not as late: waiting ranks ask each
/// other more often, and no scheduling delay is that long.
pub(super) const LONG: Duration = Duration::from_millis(400);
