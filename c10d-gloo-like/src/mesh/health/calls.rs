//! Checks for a running call: whether it can still succeed, and whether a peer has left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use c10d_core::backend::Fingerprint;
use c10d_core::{Phase, Result};

use super::peers::UNDERWAY;
use super::{FAILED, Health, LEFT, dead};
use c10d_core::calls::CallId;

impl Health {
    /// Begins a collective: writes the call into the call log. If the call cannot succeed (the group has failed, a peer
    /// has left before this call, or two peers disagree about this call), fails the group and returns the error. In a
    /// healthy group, `announce` takes some nanoseconds.
    #[inline]
    pub(crate) fn announce(&self, fingerprint: &Fingerprint) -> Result {
        self.call_log().begin(fingerprint);
        if self.alarm.load(Ordering::Acquire) == 0 { Ok(()) } else { self.refuse(fingerprint) }
    }

    #[cold]
    fn refuse(&self, fingerprint: &Fingerprint) -> Result {
        self.settle();
        self.check()?;
        let place = CallId::of(fingerprint);
        let gone = {
            let state = self.state.lock();
            let before = |last: Option<CallId>| last.is_none_or(|last| last.is_before(place));
            let left = (0..).zip(&*state.peers).filter_map(|(rank, p)| Some((rank, p.left?)));
            left.into_iter().find(|(_, left)| before(left.last))
        };
        match gone {
            // The peer left because of a failure whose cause may still arrive, so this call may begin.
            Some((_, left)) if left.failed && left.at.elapsed() < UNDERWAY => Ok(()),
            Some((rank, left)) => Err(self.fail(dead(rank, left.text()).phase(Phase::Announce))),
            None => Ok(()),
        }
    }

    /// Whether a collective was announced and has not ended.
    pub(crate) fn is_in_call(&self) -> bool {
        self.call_log().position().inside
    }

    /// Ends the collective that was announced last.
    #[inline]
    pub(crate) fn finish(&self) {
        self.call_log().end();
    }

    /// Checks whether more bytes can arrive from `rank`; if not, fails the group and returns the error. `quiet` is the
    /// time since the last bytes arrived.
    ///
    /// The data that a peer sent before it left still counts. So the caller looks for bytes once more after
    /// [`Health::has_left`] returned `true`, and calls `needs` only if there are none.
    #[inline]
    pub(crate) fn needs(&self, rank: u32, quiet: Duration) -> Result {
        if self.alarm.load(Ordering::Acquire) & (FAILED | LEFT) == 0 { Ok(()) } else { self.needs_slow(rank, quiet) }
    }

    #[cold]
    fn needs_slow(&self, rank: u32, quiet: Duration) -> Result {
        self.check()?;
        let gone = self.state.lock().peers.get(rank as usize).and_then(|p| p.gone(quiet));
        match gone {
            Some(left) => Err(self.fail(dead(rank, left.text()).phase(Phase::Transfer))),
            None => Ok(()),
        }
    }

    /// Whether this peer has left (with or without a goodbye) and all of its bytes have arrived. `quiet` is the time
    /// since its last bytes arrived.
    pub(crate) fn has_left(&self, rank: u32, quiet: Duration) -> bool {
        self.alarm.load(Ordering::Acquire) & LEFT != 0
            && self.state.lock().peers.get(rank as usize).is_some_and(|p| p.gone(quiet).is_some())
    }

    /// Whether this peer receives nothing more, because it has left or its control connection has ended.
    pub(crate) fn is_leaving(&self, rank: u32) -> bool {
        self.state.lock().peers.get(rank as usize).is_none_or(|p| p.left.is_some() || p.closed)
    }
}
