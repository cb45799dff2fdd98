//! Sleeping until a peer has written something: one futex word per rank, and the number of threads asleep on it.
//!
//! No wake-up is lost: the sleeper announces itself, fences, looks once more and then sleeps on the bell's value; the
//! writer publishes, fences and then looks for sleepers; one of the two sees the other. The writer's fence would make it
//! wait until the reader's core has let go of the cursor's line, on every write, so the sleeper fences for both
//! (`membarrier` makes every registered process pass a fence). Where that is not to be had, writers fence, or sleepers
//! sleep briefly.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};

use rustix::thread::futex::{self, Flags};
use rustix::thread::{MembarrierCommand, membarrier};

/// The words of a doorbell, as they lie in the segment of the rank that sleeps on it.
#[repr(C, align(128))]
pub(super) struct Bell {
    pub(super) rings: AtomicU32,
    pub(super) sleepers: AtomicU32,
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
