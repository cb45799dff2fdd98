//! Ends operations whose time is over, whatever the plugin does.

use std::time::Instant;

use c10d_core::Result;
use c10d_core::panics::contain;

use super::{clock, slots};

/// Starts the watch that ends operations in time.
pub(super) fn watch() -> Result {
    clock::start(end)
}

/// Ends the operations whose time is over at `now`. Returns the time of the next one.
fn end(now: Instant) -> Option<Instant> {
    let overdue = slots::take_overdue(now);
    // There is one clock for all operations, so a panic at the end of one must not affect the others.
    for operation in overdue.operations {
        contain("what follows the end of an operation", || operation.give_up());
    }
    for group in overdue.on_trust {
        contain("what follows the end of a group", || group.is_late());
    }
    overdue.next
}
