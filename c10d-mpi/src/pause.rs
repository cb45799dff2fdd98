//! Waiting between two looks at the library: only looking moves messages, so it never sleeps for long.

use std::time::{Duration, Instant};

/// Looks without a pause to speak of, while cores are free.
const SPINS: u32 = 1000;
/// How long to yield between looks before sleeping.
const YIELD: Duration = Duration::from_micros(300);
/// The sleeps: the first, and the longest.
const SLEEPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(200));

/// How one thread waits: [`Pause::wait`] when there was nothing, [`Pause::reset`] when there was.
pub(crate) struct Pause {
    /// With more ranks than cores, spinning keeps others from running.
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

    /// Waits a little; the time, where it has become worth looking at.
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
