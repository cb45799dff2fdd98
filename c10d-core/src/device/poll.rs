//! Waits for a device by polling, so that no thread blocks inside the driver.

use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// The longest pause between two polls.
const PAUSE: Duration = Duration::from_micros(500);

/// Calls `done` until it returns `true`, and then returns `true`. Returns `false` when the deadline has passed, and an
/// error if `done` returns an error.
pub(crate) fn poll(deadline: Instant, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let mut pause = Duration::from_micros(5);
    for _ in 0..64 {
        if done()? {
            return Ok(true);
        }
        std::thread::yield_now();
    }
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE);
    }
}

/// Returns the error for a device that did not finish in time.
pub(crate) fn late(name: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("device {name} did not finish its work in time"))
}
