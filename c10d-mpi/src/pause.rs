//! Waits between two calls of the library. Only calls move messages, so it never sleeps for long.

use std::time::{Duration, Instant};

/// The number of checks while spinning, if cores are free.
const SPINS: u32 = 1000;
/// How long to yield between checks before sleeping.
const YIELD: Duration = Duration::from_micros(300);
/// The first and the longest sleep.
const SLEEPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(200));

/// The waiting of one thread: it calls [`Pause::wait`] when there was nothing, [`Pause::reset`] when there was.
pub(crate) struct Pause {
    /// The number of spins; few if there are more ranks than cores, since spinning keeps others from running.
    spins: u32,
    done: u32,
    yielding: Option<Instant>,
    sleep: Duration,
}

impl Pause {
    pub(crate) fn new(crowded: bool) -> Pause {
        Pause { spins: if crowded { 4 } else { SPINS }, done: 0, yielding: None, sleep: SLEEPS.0 }
    }

    #[inline]
    pub(crate) fn reset(&mut self) {
        (self.done, self.yielding, self.sleep) = (0, None, SLEEPS.0);
    }

    /// Waits briefly. Returns the time once it is worth checking.
    #[inline]
    pub(crate) fn wait(&mut self) -> Option<Instant> {
        if self.done < self.spins {
            self.done += 1;
            std::hint::spin_loop();
            return None;
        }
        Some(self.wait_longer())
    }

    fn wait_longer(&mut self) -> Instant {
        let now = Instant::now();
        let since = *self.yielding.get_or_insert(now);
        if now.duration_since(since) < YIELD {
            std::thread::yield_now();
        } else {
            std::thread::sleep(self.sleep);
            self.sleep = (self.sleep * 2).min(SLEEPS.1);
        }
        now
    }
}
