//! Sleeping until a peer has written something: the side of the rank that sleeps. How no wake-up is lost, [`super::bell`]
//! says.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};
use rustix::thread::{MembarrierCommand, membarrier};

use super::bell::Bell;
use super::segment::Segment;

/// The longest sleep without a look.
const SLICE: Duration = Duration::from_millis(10);
/// The same where a bell may be missed.
const SHORT_SLICE: Duration = Duration::from_micros(500);

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
