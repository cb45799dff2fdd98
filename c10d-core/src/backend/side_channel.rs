//! The side channel of a backend: messages between its ranks that do not go through the backend's own library. They
//! report which rank is gone, why a rank aborts, and which calls a rank made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::heartbeats::Heartbeats;
use super::{CpuMessages, Fingerprint, GroupInit};
use crate::store::PrefixStore;
use crate::{Error, ErrorKind, Result};

/// The tag of the message that a rank sends when it leaves.
const GOODBYE: u32 = 1;

/// The kind of operation that a fingerprint describes. The value is the tag of the message with the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// A collective.
    Collective = 2,
    /// A point-to-point message.
    Message = 3,
}

/// The timeout of the watch, which lasts as long as the group.
const ALWAYS: Duration = Duration::MAX;
/// The timeout of the message that a rank sends when it leaves.
const SOON: Duration = Duration::from_secs(1);

/// This rank's end of a side channel.
#[derive(Clone)]
pub enum SideChannel {
    /// Through a CPU backend that only this channel uses. It ends every message with an error when a peer's process is
    /// gone or a peer aborts.
    Messages(Messages),
    /// Through the store, for groups without a CPU backend.
    Heartbeats(Heartbeats),
}

impl SideChannel {
    /// Connects through a new CPU backend with the name `cpu`, or through the store if `cpu` is `None`. `purpose`
    /// distinguishes several side channels of one group. Returns `None` if the group has only one rank.
    ///
    /// # Errors
    /// The errors of making the CPU backend.
    pub fn connect(init: &GroupInit, cpu: Option<&str>, purpose: &str) -> Result<Option<SideChannel>> {
        if init.size == 1 {
            return Ok(None);
        }
        let Some(cpu) = cpu else {
            let store = Arc::new(PrefixStore::new(format!("side/{purpose}"), init.store.clone()));
            return Ok(Some(SideChannel::Heartbeats(Heartbeats::new(store, init.rank, init.size))));
        };
        let aside = CpuMessages::new(init.own_backend(cpu, purpose)?);
        let (rank, size, left) = (init.rank, init.size, Arc::default());
        Ok(Some(SideChannel::Messages(Messages { aside, rank, size, left })))
    }

    /// Returns the messages, if the channel goes through a CPU backend.
    pub fn messages(&self) -> Option<&Messages> {
        match self {
            SideChannel::Messages(messages) => Some(messages),
            SideChannel::Heartbeats(_) => None,
        }
    }

    /// Waits until a peer is gone or aborts, and returns the error. Returns `None` if this rank has left. `watch` also
    /// returns `None` if the next rank has left (over messages), or if this rank aborts or the store does not answer
    /// any more (over heartbeats).
    pub fn watch(&self) -> Option<Error> {
        match self {
            SideChannel::Messages(messages) => messages.watch(),
            SideChannel::Heartbeats(beats) => beats.watch(),
        }
    }

    /// Reports to the peers why this rank aborts.
    pub fn abort(&self, cause: &Error) {
        match self {
            SideChannel::Messages(messages) => messages.aside.abort(cause),
            SideChannel::Heartbeats(beats) => beats.abort(cause),
        }
    }

    /// The same as [`abort`](SideChannel::abort), for a rank that then leaves the group. A rank that has left cannot
    /// write to the group's store. So this function waits at most a second until the cause is in the store.
    pub fn abort_and_leave(&self, cause: &Error) {
        self.abort(cause);
        if let SideChannel::Heartbeats(beats) = self {
            beats.wait_for_abort();
        }
    }

    /// Tells the peers that this rank leaves, so that they do not consider it dead.
    pub fn leave(&self) {
        match self {
            SideChannel::Messages(messages) => messages.leave(),
            SideChannel::Heartbeats(beats) => beats.leave(),
        }
    }
}

/// Messages between ranks, through a CPU backend. Each rank watches the next rank.
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
        // The fields about the watch's message have no meaning for the caller of a collective. A mismatch about a
        // collective keeps the op and the number of the collective.
        let about_a_call =
            matches!(report.kind, ErrorKind::Mismatch { .. }) && report.op.is_some_and(|op| !op.is_p2p());
        if !about_a_call {
            (report.op, report.seq) = (None, None);
        }
        (report.elapsed, report.deadline, report.phase) = (None, None, None);
        Some(error)
    }

    /// Returns a function that finds out which ranks do not answer or have left (see
    /// [`Backend::waits`](super::Backend::waits)).
    pub fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.aside.waits()
    }

    /// Returns the rank after this rank.
    pub fn next(&self) -> u32 {
        (self.rank + 1) % self.size
    }

    /// Returns the rank before this rank.
    pub fn before(&self) -> u32 {
        (self.rank + self.size - 1) % self.size
    }

    /// Sends the fingerprint of an operation of this rank to another rank.
    ///
    /// # Errors
    /// The same as for [`CpuMessages::send`].
    pub fn send_fingerprint(&self, to: u32, what: Compared, fingerprint: &Fingerprint, timeout: Duration) -> Result {
        self.aside.send(&fingerprint.to_bytes(), to, what as u32, timeout)
    }

    /// Receives the fingerprint of an operation of another rank.
    ///
    /// # Errors
    /// The same as for [`CpuMessages::recv`].
    pub fn receive_fingerprint(&self, from: u32, what: Compared, timeout: Duration) -> Result<Fingerprint> {
        let mut bytes = [0; Fingerprint::SIZE];
        self.aside.recv(&mut bytes, from, what as u32, timeout)?;
        Ok(Fingerprint::from_bytes(&bytes))
    }

    fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            // This fails if the previous rank is gone. Then no rank needs the message.
            let _ = self.aside.send(&[0], self.before(), GOODBYE, SOON);
            self.aside.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::backend::{Backend, Provider, Registration};
    use crate::{Builder, DispatchKey};

    /// Rank 1 aborts one side channel. On rank 0, the watch of this channel returns the cause, and the watch of the
    /// other channel does not end.
    fn connect(init: &GroupInit) -> Result<Arc<dyn Backend>> {
        static OVER: Barrier = Barrier::new(2);
        let [one, other] = ["one", "other"].map(|purpose| SideChannel::connect(init, None, purpose).unwrap().unwrap());
        if init.rank == 1 {
            one.abort(&Error::new(ErrorKind::Aborted, "enough"));
            OVER.wait();
            return Err(Error::unsupported("the test is over"));
        }
        let cause = one.watch();
        let (tell, told) = channel();
        let watch = other.clone();
        std::thread::spawn(move || tell.send(watch.watch()));
        // The watch must continue until the rank leaves.
        let early = told.recv_timeout(Duration::from_millis(300));
        other.leave();
        OVER.wait();
        let cause = cause.unwrap();
        assert_eq!((cause.kind(), &*cause.report().guilty), (&ErrorKind::Aborted, &[1][..]), "{cause}");
        let end = early.or_else(|_| told.recv()).unwrap();
        assert!(end.is_none(), "the side channels are not separate: {end:?}");
        Err(Error::unsupported("the test is over"))
    }

    #[test]
    fn side_channels_through_the_store_are_separate() {
        let registration =
            Registration { name: "sides", keys: &[DispatchKey::Cpu], priority: 1, probe: &|| Ok(()), create: &connect };
        let backends = Box::leak(Box::new([registration]));
        let provider = Box::leak(Box::new(Provider { source: "tests", backends, ..Provider::EMPTY }));
        let e = Builder::new().providers(&[provider]).run_ranks(2, |_| Ok(())).unwrap_err();
        assert!(e.to_string().contains("the test is over"), "{e}");
    }
}
