//! The clock of all plugins' operations: one thread, which starts with the first group. Groups and operations set
//! alarms. At an alarm the thread ends the operations whose time is over, by the function that was passed to `start`.

use std::sync::Once;
use std::time::{Duration, Instant};

use c10d_core::process::PerProcess;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Result};

struct Clock {
    /// The time of the next alarm; `None` if no alarm is set.
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

/// A forked child has its own clock.
static CLOCK: PerProcess<Clock> = PerProcess::new();

/// Starts the clock if it is not running yet. `end_overdue` gets the current time at each alarm, and returns the time
/// of the next alarm.
pub(super) fn start(end_overdue: fn(Instant) -> Option<Instant>) -> Result {
    let clock = CLOCK.get();
    let mut result = Ok(());
    clock.started.call_once(|| {
        let spawned = std::thread::Builder::new().name("c10d plugin clock".into()).spawn(move || run(end_overdue));
        result = spawned.map(drop);
    });
    // A failed start is not tried again: all later groups are rejected.
    let mut failed = clock.failed.lock();
    *failed |= result.is_err();
    match (result, *failed) {
        (Ok(()), false) => Ok(()),
        (Err(e), _) => Err(Error::no_thread("cannot start the clock of plugins' operations", e)),
        (Ok(()), true) => Err(Error::new(ErrorKind::Resource, "the clock of plugins' operations could not be started")),
    }
}

/// Sets an alarm at this time.
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
                // The alarm is cleared before the call of `end_overdue`, because a new operation may set an alarm
                // during the call.
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
