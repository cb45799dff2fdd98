//! The clock of all plugins' operations: one thread, started with the first group. Groups and operations set it; what
//! it does when their time is over stands above them, and is given to it.

use std::sync::Once;
use std::time::{Duration, Instant};

use c10d_core::process::PerProcess;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Result};

struct Clock {
    /// When the thread looks next; `None`: when it is told to.
    next: Mutex<Option<Instant>>,
    sooner: Condvar,
    started: Once,
    failed: Mutex<bool>,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { next: Mutex::default(), sooner: Condvar::new(), started: Once::new(), failed: Mutex::default() }
    }
}

/// A forked child has a clock of its own: threads do not come along.
static CLOCK: PerProcess<Clock> = PerProcess::new();

/// Starts the clock, if it does not run yet. Whenever the time has come, its thread calls `end_overdue` with the time,
/// which gives the next time.
pub(super) fn start(end_overdue: fn(Instant) -> Option<Instant>) -> Result {
    let clock = CLOCK.get();
    let mut result = Ok(());
    clock.started.call_once(|| {
        let spawned = std::thread::Builder::new().name("c10d plugin clock".into()).spawn(move || run(end_overdue));
        result = spawned.map(drop);
    });
    // After a failure no further start is tried; the second group would be unwatched, so it is refused as well.
    let mut failed = clock.failed.lock();
    *failed |= result.is_err();
    match (result, *failed) {
        (Ok(()), false) => Ok(()),
        (Err(e), _) => Err(Error::no_thread("cannot start the clock of plugins' operations", e)),
        (Ok(()), true) => Err(Error::new(ErrorKind::Resource, "the clock of plugins' operations could not be started")),
    }
}

/// Sees to it that the clock looks at this time.
pub(super) fn at(limit: Instant) {
    let clock = CLOCK.get();
    let mut next = clock.next.lock();
    if next.is_none_or(|n| limit < n) {
        *next = Some(limit);
        clock.sooner.notify_one();
    }
}

fn run(end_overdue: fn(Instant) -> Option<Instant>) {
    let clock = CLOCK.get();
    let mut next = clock.next.lock();
    loop {
        match *next {
            None => clock.sooner.wait(&mut next),
            Some(at) => {
                let now = Instant::now();
                if at > now {
                    clock.sooner.wait_for(&mut next, (at - now).min(Duration::from_secs(3600)));
                    continue;
                }
                // Set before looking: an operation that comes meanwhile brings it forward again.
                *next = None;
                drop(next);
                if let Some(soonest) = end_overdue(now) {
                    self::at(soonest);
                }
                next = clock.next.lock();
            }
        }
    }
}
