//! Pauses between two calls of MPI. Messages move only during calls, so a pause is never long.

use std::time::{Duration, Instant};

/// The number of spins before a thread yields, if cores are free.
const SPINS: u32 = 1000;
/// The total time during which a thread yields between its checks. After this time the thread sleeps between checks.
const YIELD: Duration = Duration::from_micros(300);
/// The first and the longest sleep.
const SLEEPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(200));

/// The pauses of one waiting thread. The thread checks again and again whether messages have moved. If none has, it
/// calls [`Pause::wait`]; if some have, it calls [`Pause::reset`].
pub(crate) struct Pause {
    /// The number of spins; few if there are more ranks than cores, since spinning would keep other ranks from running.
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

    /// Waits briefly. Returns `None` while spinning, and the current time otherwise, so that the caller can check
    /// deadlines.
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
