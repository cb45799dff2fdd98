//! The clock of all plugins' operations: one thread, started with the first group.

use std::sync::Once;
use std::time::{Duration, Instant};

use c10d_core::panics::contain;
use c10d_core::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};

use super::slots;

/// When the thread looks next; `None`: when it is told to.
static NEXT: Mutex<Option<Instant>> = Mutex::new(None);
static SOONER: Condvar = Condvar::new();
static STARTED: Once = Once::new();

/// Starts the clock, if it does not run yet.
pub(super) fn start() -> Result {
    let mut result = Ok(());
    STARTED.call_once(|| {
        let spawned = std::thread::Builder::new().name("c10d plugin clock".into()).spawn(run);
        result = spawned.map(drop);
    });
    // After a failure no further start is tried; the second group would be unwatched, so it is refused as well.
    static FAILED: Mutex<bool> = Mutex::new(false);
    let mut failed = FAILED.lock();
    *failed |= result.is_err();
    match (result, *failed) {
        (Ok(()), false) => Ok(()),
        (Err(e), _) => Err(Error::new(ErrorKind::Resource, "cannot start the clock of plugins' operations").source(e)),
        (Ok(()), true) => Err(Error::new(ErrorKind::Resource, "the clock of plugins' operations could not be started")),
    }
}

/// Sees to it that the clock looks at this time.
pub(super) fn at(limit: Instant) {
    let mut next = NEXT.lock();
    if next.is_none_or(|n| limit < n) {
        *next = Some(limit);
        SOONER.notify_one();
    }
}

fn run() {
    let mut next = NEXT.lock();
    loop {
        match *next {
            None => SOONER.wait(&mut next),
            Some(at) => {
                let now = Instant::now();
                if at > now {
                    SOONER.wait_for(&mut next, (at - now).min(Duration::from_secs(3600)));
                    continue;
                }
                // Set before looking: an operation that comes meanwhile brings it forward again.
                *next = None;
                drop(next);
                let overdue = slots::overdue(now);
                // There is one clock for all: whatever the end of one operation leads to, the others have theirs.
                for flight in overdue.late {
                    contain("what follows the end of an operation", || flight.give_up());
                }
                for group in overdue.held {
                    contain("what follows the end of a group", || group.is_late());
                }
                if let Some(soonest) = overdue.next {
                    self::at(soonest);
                }
                next = NEXT.lock();
            }
        }
    }
}
