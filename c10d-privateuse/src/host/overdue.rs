//! Ends operations whose time is over, whatever the plugin does.

use std::time::Instant;

use c10d_core::Result;
use c10d_core::panics::contain;

use super::{clock, slots};

/// Sees to it that operations are ended in time.
pub(super) fn watch() -> Result {
    clock::start(end)
}

/// Ends those whose time is over at `now`. Gives the time when the next one's is.
fn end(now: Instant) -> Option<Instant> {
    let overdue = slots::take_overdue(now);
    // There is one clock for all: whatever the end of one operation leads to, the others have theirs.
    for operation in overdue.operations {
        contain("what follows the end of an operation", || operation.give_up());
    }
    for group in overdue.on_trust {
        contain("what follows the end of a group", || group.is_late());
    }
    overdue.next
}
