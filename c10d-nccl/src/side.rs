//! What the ranks tell each other beside NCCL: who is gone, and why somebody gives up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use c10d_core::{Aside, Error, ErrorKind, Fingerprint, GroupInit, Result};

/// Tells the goodbye of an orderly rank from all other messages.
const GOODBYE: u32 = 1;
/// Tells fingerprints from all other messages.
const PRINT: u32 = 2;
/// No deadline: the watch lasts as long as the group.
const ALWAYS: Duration = Duration::MAX;
const SOON: Duration = Duration::from_secs(1);

/// This rank's end of the side channel. All ranks watch each other by it: the CPU backend below ends every message when a
/// peer's process is gone, or when one aborts.
#[derive(Clone)]
pub(crate) struct Side {
    aside: Aside,
    rank: u32,
    size: u32,
    left: Arc<AtomicBool>,
}

impl Side {
    /// Connects, over the group's CPU backend. `None`: the group has none, or is alone.
    pub(crate) fn connect(init: &GroupInit) -> Result<Option<Side>> {
        let (Some(cpu), true) = (init.cpu, init.size > 1) else { return Ok(None) };
        let aside = Aside::new(init.own_backend(cpu, "nccl")?);
        Ok(Some(Side { aside, rank: init.rank, size: init.size, left: Arc::default() }))
    }

    /// Waits until a peer is gone or gives up; `None`: the peer next in line left in order, or this rank did.
    pub(crate) fn watch(&self) -> Option<Error> {
        let next = (self.rank + 1) % self.size;
        let mut error = self.aside.recv(&mut [0], next, GOODBYE, ALWAYS).err()?;
        if self.left.load(Ordering::Acquire) {
            return None;
        }
        let report = error.report_mut();
        // What the message was does not matter to whoever waits for a collective.
        (report.op, report.seq, report.elapsed, report.deadline, report.phase) = (None, None, None, None, None);
        if matches!(report.kind, ErrorKind::Shutdown) {
            return None;
        }
        Some(error)
    }

    /// The rank before this one.
    pub(crate) fn before(&self) -> u32 {
        (self.rank + self.size - 1) % self.size
    }

    /// Tells the next rank what this one issued.
    pub(crate) fn tell(&self, print: &Fingerprint, timeout: Duration) -> Result {
        self.aside.send(&print.to_bytes(), (self.rank + 1) % self.size, PRINT, timeout)
    }

    /// What the rank before issued.
    pub(crate) fn hear(&self, timeout: Duration) -> Result<Fingerprint> {
        let mut bytes = [0; Fingerprint::SIZE];
        self.aside.recv(&mut bytes, self.before(), PRINT, timeout)?;
        Ok(Fingerprint::from_bytes(&bytes))
    }

    /// Lets the peers know why this rank gives up.
    pub(crate) fn abort(&self, cause: &Error) {
        self.aside.abort(cause);
    }

    /// Leaves in order.
    pub(crate) fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            // One that is gone already needs no goodbye.
            let _ = self.aside.send(&[0], self.before(), GOODBYE, SOON);
            self.aside.leave();
        }
    }
}
