//! What the ranks of a backend tell each other beside its own library: who is gone, why somebody gives up, and what they
//! issued.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::heartbeats::Heartbeats;
use super::{CpuMessages, Fingerprint, GroupInit};
use crate::{Error, ErrorKind, Result};

/// Tells the goodbye of an orderly rank from all other messages.
const GOODBYE: u32 = 1;

/// Of what a fingerprint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Of a collective.
    Collective = 2,
    /// Of a message.
    Message = 3,
}

/// No deadline: the watch lasts as long as the group.
const ALWAYS: Duration = Duration::MAX;
const SOON: Duration = Duration::from_secs(1);

/// This rank's end of the side channel, by which all ranks watch each other.
#[derive(Clone)]
pub enum SideChannel {
    /// Over the group's CPU backend, which ends every message when a peer's process is gone, or when one aborts.
    Messages(Messages),
    /// Over the store, for groups without one.
    Heartbeats(Heartbeats),
}

impl SideChannel {
    /// Connects, over the CPU backend of this name, or else over the store; `purpose` tells several of one group apart.
    /// `None`: the rank is alone.
    ///
    /// # Errors
    /// As of the CPU backend's own start.
    pub fn connect(init: &GroupInit, cpu: Option<&str>, purpose: &str) -> Result<Option<SideChannel>> {
        if init.size == 1 {
            return Ok(None);
        }
        let Some(cpu) = cpu else {
            return Ok(Some(SideChannel::Heartbeats(Heartbeats::new(init.store.clone(), init.rank, init.size))));
        };
        let aside = CpuMessages::new(init.own_backend(cpu, purpose)?);
        let (rank, size, left) = (init.rank, init.size, Arc::default());
        Ok(Some(SideChannel::Messages(Messages { aside, rank, size, left })))
    }

    /// What messages can be sent by.
    pub fn messages(&self) -> Option<&Messages> {
        match self {
            SideChannel::Messages(messages) => Some(messages),
            SideChannel::Heartbeats(_) => None,
        }
    }

    /// Waits until a peer is gone or gives up; `None`: there is nothing more to watch.
    pub fn watch(&self) -> Option<Error> {
        match self {
            SideChannel::Messages(messages) => messages.watch(),
            SideChannel::Heartbeats(beats) => beats.watch(),
        }
    }

    /// Lets the peers know why this rank gives up.
    pub fn abort(&self, cause: &Error) {
        match self {
            SideChannel::Messages(messages) => messages.aside.abort(cause),
            SideChannel::Heartbeats(beats) => beats.abort(cause),
        }
    }

    /// Leaves in order.
    pub fn leave(&self) {
        match self {
            SideChannel::Messages(messages) => messages.leave(),
            SideChannel::Heartbeats(beats) => beats.leave(),
        }
    }
}

/// The messages between neighbours.
#[derive(Clone)]
pub struct Messages {
    aside: CpuMessages,
    rank: u32,
    size: u32,
    left: Arc<AtomicBool>,
}

impl Messages {
    fn watch(&self) -> Option<Error> {
        let mut error = self.aside.recv(&mut [0], self.next(), GOODBYE, ALWAYS).err()?;
        if self.left.load(Ordering::Acquire) || *error.kind() == ErrorKind::Shutdown {
            return None;
        }
        let report = error.report_mut();
        // What the message was does not matter to whoever waits for a collective. A disagreement is about another call.
        let about_a_call =
            matches!(report.kind, ErrorKind::Mismatch { .. }) && report.op.is_some_and(|op| !op.is_p2p());
        if !about_a_call {
            (report.op, report.seq) = (None, None);
        }
        (report.elapsed, report.deadline, report.phase) = (None, None, None);
        Some(error)
    }

    /// Which ranks do not answer, or have left: the library knows no more of them.
    pub fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.aside.waits()
    }

    /// The rank after this one.
    pub fn next(&self) -> u32 {
        (self.rank + 1) % self.size
    }

    /// The rank before this one.
    pub fn before(&self) -> u32 {
        (self.rank + self.size - 1) % self.size
    }

    /// Tells a rank what this one issued.
    ///
    /// # Errors
    /// As of a message.
    pub fn tell(&self, to: u32, what: Compared, fingerprint: &Fingerprint, timeout: Duration) -> Result {
        self.aside.send(&fingerprint.to_bytes(), to, what as u32, timeout)
    }

    /// What that rank issued.
    ///
    /// # Errors
    /// As of a message.
    pub fn hear(&self, from: u32, what: Compared, timeout: Duration) -> Result<Fingerprint> {
        let mut bytes = [0; Fingerprint::SIZE];
        self.aside.recv(&mut bytes, from, what as u32, timeout)?;
        Ok(Fingerprint::from_bytes(&bytes))
    }

    fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            // One that is gone already needs no goodbye.
            let _ = self.aside.send(&[0], self.before(), GOODBYE, SOON);
            self.aside.leave();
        }
    }
}
