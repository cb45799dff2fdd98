//! The sleeping rank's side of a bell. [`super::bell`] explains how the two sides avoid lost wake-ups.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};
use rustix::thread::{MembarrierCommand, membarrier};

use super::bell::Bell;
use super::segment::Segment;

/// The longest sleep before the caller checks for data again.
const SLICE: Duration = Duration::from_millis(10);
/// The longest sleep if a peer may write data without ringing the bell (see [`Doorbell::sure`]).
const SHORT_SLICE: Duration = Duration::from_micros(500);

/// This rank's bell. A thread calls [`Doorbell::arm`] and checks for data. As long as there is none, it calls
/// [`Doorbell::sleep`] and [`Doorbell::value`], and checks again. At the end it calls [`Doorbell::disarm`].
pub(crate) struct Doorbell {
    segment: Arc<Segment>,
    /// Whether `membarrier` succeeded when the bell was armed. If it failed, a writer may not see the sleeper, and then
    /// does not ring.
    sure: bool,
}

impl Doorbell {
    /// Makes the doorbell of the bell in this rank's segment.
    pub(crate) fn new(own: Arc<Segment>) -> Doorbell {
        Doorbell { segment: own, sure: false }
    }

    fn bell(&self) -> &Bell {
        &self.segment.header().bell
    }

    /// Announces a sleeper. If the caller then finds no data, the peer that writes the next data rings the bell (unless
    /// `sure` is `false`). Returns the value to sleep on.
    pub(crate) fn arm(&mut self) -> u32 {
        self.bell().sleepers.fetch_add(1, Ordering::SeqCst);
        self.sure = membarrier(MembarrierCommand::GlobalExpedited).is_ok();
        fence(Ordering::SeqCst);
        self.value()
    }

    /// Returns the value to sleep on. The caller must read it before its last check for data.
    pub(crate) fn value(&self) -> u32 {
        self.bell().rings.load(Ordering::Acquire)
    }

    /// Sleeps until the bell's value differs from `seen`, but at most for [`SLICE`] or [`SHORT_SLICE`].
    pub(crate) fn sleep(&self, seen: u32) {
        let slice = if self.sure { SLICE } else { SHORT_SLICE };
        let slice = Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() };
        // The wait may end for any reason.
        let _ = futex::wait(&self.bell().rings, Flags::empty(), seen, Some(&slice));
    }

    /// Withdraws the announcement.
    pub(crate) fn disarm(&self) {
        self.bell().sleepers.fetch_sub(1, Ordering::Release);
    }
}
