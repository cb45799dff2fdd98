//! The bell on which a rank sleeps until a peer has written or read. A bell has two words in shared memory: a futex
//! word, and the number of threads that sleep on it.
//!
//! If `membarrier` works, no wake-up is lost. The sleeper announces itself and then checks for bytes once more. The
//! writer publishes and then checks for sleepers. Each of them executes a fence between its two actions. So the
//! sleeper sees the published bytes, or the writer sees the sleeper. A fence at every write would be slow, so the
//! sleeper causes both fences: its call of `membarrier` makes every registered process execute a fence. A writer that
//! cannot register executes its own fence. A sleeper that cannot call `membarrier` may miss the wake-up, so it sleeps
//! only briefly.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};

use rustix::thread::futex::{self, Flags};
use rustix::thread::{MembarrierCommand, membarrier};

/// The words of a doorbell, in the segment of the rank that sleeps on it.
#[repr(C, align(128))]
pub(super) struct Bell {
    pub(super) rings: AtomicU32,
    pub(super) sleepers: AtomicU32,
}

/// Whether a sleeper can make the threads of this process execute a fence.
fn registered() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok())
}

impl Bell {
    /// Wakes the threads that sleep here. The writer calls this after publishing.
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
        // Waking cannot fail on a mapped word.
        let _ = futex::wake(&self.rings, Flags::empty(), i32::MAX as u32);
    }
}
