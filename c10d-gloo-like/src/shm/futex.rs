//! Sleeping until a peer has written something: one futex word per rank, and the number of threads asleep on it.
//!
//! No wake-up is lost: the sleeper announces itself, fences, looks once more and then sleeps on the bell's value; the
//! writer publishes, fences and then looks for sleepers; one of the two sees the other. The writer's fence would make it
//! wait until the reader's core has let go of the cursor's line, on every write, so the sleeper fences for both
//! (`membarrier` makes every registered process pass a fence). Where that is not to be had, writers fence, or sleepers
//! sleep briefly.

use std::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};
use rustix::thread::{MembarrierCommand, membarrier};

use super::Segment;

/// The longest sleep without a look.
const SLICE: Duration = Duration::from_millis(10);
/// The same where a bell may be missed.
const SHORT_SLICE: Duration = Duration::from_micros(500);

/// The words of a doorbell, as they lie in the segment of the rank that sleeps on it.
#[repr(C, align(128))]
pub(super) struct Bell {
    rings: AtomicU32,
    sleepers: AtomicU32,
}

/// Whether sleepers can fence for the threads of this process.
fn registered() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok())
}

impl Bell {
    /// Wakes whoever sleeps here; to be called after publishing. Little more than a load when nobody does.
    #[inline]
    pub(super) fn ring(&self) {
        if registered() {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        self.rings.fetch_add(1, Ordering::Release);
        // Waking cannot fail on a mapped word, and sleepers look again by themselves in any case.
        let _ = futex::wake(&self.rings, Flags::empty(), i32::MAX as u32);
    }
}

/// The bell of the own rank, to sleep on: [`Doorbell::arm`], look once more, [`Doorbell::sleep`] or [`Doorbell::value`] and
/// look again, ..., [`Doorbell::disarm`].
pub(crate) struct Doorbell {
    segment: Arc<Segment>,
    /// Whether the writers were fenced when the bell was armed.
    sure: bool,
}

impl Doorbell {
    /// The bell in the own segment.
    pub(crate) fn new(own: Arc<Segment>) -> Doorbell {
        Doorbell { segment: own, sure: false }
    }

    fn bell(&self) -> &Bell {
        &self.segment.header().bell
    }

    /// Announces a sleeper. What a look after this does not see rings the bell. Gives the value to sleep on.
    pub(crate) fn arm(&mut self) -> u32 {
        self.bell().sleepers.fetch_add(1, Ordering::SeqCst);
        self.sure = membarrier(MembarrierCommand::GlobalExpedited).is_ok();
        fence(Ordering::SeqCst);
        self.value()
    }

    /// The value to sleep on, to be read before the last look.
    pub(crate) fn value(&self) -> u32 {
        self.bell().rings.load(Ordering::Acquire)
    }

    /// Sleeps until the bell's value differs from `seen`, or for a while.
    pub(crate) fn sleep(&self, seen: u32) {
        let slice = if self.sure { SLICE } else { SHORT_SLICE };
        let slice = Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() };
        // Woken, interrupted, timed out or not even begun: the caller looks again in each case.
        let _ = futex::wait(&self.bell().rings, Flags::empty(), seen, Some(&slice));
    }

    /// Takes the announcement back.
    pub(crate) fn disarm(&self) {
        self.bell().sleepers.fetch_sub(1, Ordering::Release);
    }
}
