//! Ends operations whose time is over, even if the plugin has not ended them.

use std::time::Instant;

use c10d_core::Result;
use c10d_core::panics::contain;

use super::{clock, slots};

pub(super) fn watch() -> Result {
    clock::start(end)
}

/// Ends the operations whose time is over at `now`. Returns the time at which the next operation's time is over.
fn end(now: Instant) -> Option<Instant> {
    let overdue = slots::take_overdue(now);
    // A panic at the end of one operation must not affect the others.
    for operation in overdue.operations {
        contain("the work after the end of an operation", || operation.give_up());
    }
    for group in overdue.on_trust {
        contain("the work after the end of a group", || group.is_late());
    }
    overdue.next
}
