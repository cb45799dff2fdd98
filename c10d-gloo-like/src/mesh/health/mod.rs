//! The health of one group on one rank: whether it has failed, why, and what the peers are doing.
//!
//! All threads of the backend share this object. The first cause of a failure counts, and is sent to all peers at once.
//! The watcher's thread handles frames from other processes. A frame to a rank of the same process is handled on the
//! sender's thread.

mod call_logs;
mod calls;
mod doubt;
mod failure;
mod leave;
mod listener;
mod lost;
mod own;
mod peers;
mod query;
mod reach;
mod remind;

use call_logs::CallLogs;
use own::Own;
use peers::{HealthState, Peer};

pub(crate) use doubt::Open;
pub(super) use lost::{BEFORE, gone};

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use c10d_core::backend::Fingerprint;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Result};

use super::connection::{Connection, Listener};
use super::control::Frame;
use crate::call_log::CallLog;
use crate::shm::Segment;
use c10d_core::calls::CallId;
use c10d_core::calls::Doubts;

/// A function that wakes a thread which sleeps while it waits for peers.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

pub(super) enum Path {
    /// The peer is a thread of this process.
    Here(Weak<Health>),
    /// The peer is another process.
    Away(Arc<Connection>),
}

const FAILED: u8 = 1;
/// Two peers disagree about a call that this rank has yet to make.
const DISPUTED: u8 = 2;
/// A peer has left.
const LEFT: u8 = 4;

/// The health of one group on one rank. See the module.
pub(crate) struct Health {
    group: Arc<str>,
    rank: u32,
    /// The events that have occurred, as bits.
    alarm: AtomicU8,
    /// This rank's call log, if the rank has no segment.
    own_call_log: CallLog,
    call_logs: OnceLock<CallLogs>,
    /// The calls in which this rank received nothing from a peer. A thread that holds this lock sends no frame and does
    /// not fail the group: a peer in this process handles a frame on the sender's thread, and the peer's answer could
    /// lock this again.
    doubts: Mutex<Doubts>,
    /// Signalled when a peer reports its calls, and whenever the `wakers` are called.
    answers: Condvar,
    paths: Box<[OnceLock<Path>]>,
    state: Mutex<HealthState>,
    news: Condvar,
    wakers: Mutex<Vec<Waker>>,
    queries: AtomicU32,
    /// Locked while the report of a failure is sent: no goodbye is sent before the report.
    telling: Mutex<()>,
    own: Own,
    /// The time after which a wait is reported.
    warn_after: Option<Duration>,
}

impl Health {
    pub(super) fn new(group: Arc<str>, rank: u32, size: u32, warn_after: Option<Duration>) -> Arc<Health> {
        let doubts = Mutex::new(Doubts::new(rank, size));
        let size = size as usize;
        Arc::new(Health {
            group,
            rank,
            alarm: AtomicU8::new(0),
            own_call_log: CallLog::new(),
            call_logs: OnceLock::new(),
            doubts,
            answers: Condvar::new(),
            paths: (0..size).map(|_| OnceLock::new()).collect(),
            state: Mutex::new(HealthState { cause: None, dispute: None, peers: vec![Peer::default(); size].into() }),
            news: Condvar::new(),
            wakers: Mutex::new(Vec::new()),
            queries: AtomicU32::new(0),
            telling: Mutex::new(()),
            own: Own::default(),
            warn_after,
        })
    }

    /// Sets the path to a peer. Called once for each peer.
    pub(super) fn reach(&self, peer: u32, path: Path) {
        if let Some(slot) = self.paths.get(peer as usize) {
            let _ = slot.set(path);
        }
    }

    /// Records that this peer's bytes arrive over TCP.
    pub(super) fn uses_tcp(&self, peer: u32) {
        if let Some(peer) = self.state.lock().peers.get_mut(peer as usize) {
            peer.tcp = true;
        }
    }

    /// Registers `wake`. It is called when the group fails, when a peer reports a failure, leaves or dies, and when the
    /// connection to a peer ends. If an event of `alarm` has already occurred, `wake` is called at once.
    pub(crate) fn on_news(&self, wake: Waker) {
        let mut wakers = self.wakers.lock();
        wakers.push(wake);
        if let Some(wake) = wakers.last()
            && self.alarm.load(Ordering::Acquire) != 0
        {
            wake();
        }
    }

    /// Whether the group has failed. Costs one atomic load.
    #[inline]
    pub(crate) fn failed(&self) -> bool {
        self.alarm.load(Ordering::Acquire) & FAILED != 0
    }

    /// Returns why the group failed, if it has. Waits until the cause has been sent to the peers.
    pub(crate) fn cause(&self) -> Option<Error> {
        let cause = self.first_cause()?;
        self.wait_until_told();
        Some(cause)
    }

    /// Returns why the group failed, even before the peers were sent the cause.
    fn first_cause(&self) -> Option<Error> {
        let state = self.state.lock();
        state.cause.as_ref().map(|cause| state.with_all_dead(cause.clone()))
    }

    /// Returns the cause as an error if the group has failed, for waiting loops.
    #[inline]
    pub(crate) fn check(&self) -> Result {
        if self.failed() { Err(self.failure()) } else { Ok(()) }
    }

    #[cold]
    fn failure(&self) -> Error {
        self.cause().unwrap_or_else(|| Error::new(ErrorKind::Internal, "the group failed without a cause"))
    }

    /// Whether two peers disagree about a call that this rank has yet to make.
    #[cfg(test)]
    pub(super) fn disputed(&self) -> bool {
        self.alarm.load(Ordering::Acquire) & DISPUTED != 0
    }

    /// Sets the segments of this rank and of the peers that share memory with it. Called once, before the first call.
    pub(super) fn shares(&self, own: Option<Arc<Segment>>, peers: Box<[Option<Arc<Segment>>]>) {
        let _ = self.call_logs.set(CallLogs::new(own, peers));
    }

    #[inline]
    fn call_log(&self) -> &CallLog {
        self.call_logs.get().and_then(CallLogs::own).unwrap_or(&self.own_call_log)
    }

    /// A peer's call log, if the peer shares memory with this rank.
    fn call_log_of(&self, peer: u32) -> Option<&CallLog> {
        self.call_logs.get()?.of(peer)
    }

    /// Returns the fingerprint of this rank's call `place`, if it is remembered.
    pub(crate) fn called(&self, place: CallId) -> Option<Fingerprint> {
        self.call_log().find(place).or_else(|| self.doubts.lock().find(place))
    }

    fn path(&self, peer: u32) -> Option<&Path> {
        self.paths.get(peer as usize)?.get()
    }

    fn send_to(&self, to: u32, frame: &Frame) {
        match self.path(to) {
            Some(Path::Away(connection)) => connection.send_bytes(&frame.to_bytes(), true),
            Some(Path::Here(peer)) => {
                if let Some(peer) = peer.upgrade() {
                    peer.handle(self.rank, frame.clone());
                }
            }
            None => {}
        }
    }

    fn send_to_all(&self, frame: &Frame) {
        let bytes = frame.to_bytes();
        for path in &self.paths {
            match path.get() {
                Some(Path::Away(connection)) => connection.send_bytes(&bytes, true),
                Some(Path::Here(peer)) => {
                    if let Some(peer) = peer.upgrade() {
                        peer.handle(self.rank, frame.clone());
                    }
                }
                None => {}
            }
        }
    }

    fn wake(&self) {
        self.news.notify_all();
        self.answers.notify_all();
        self.wakers.lock().iter().for_each(|wake| wake());
    }
}

fn dead(rank: u32, how: String) -> Error {
    Error::new(ErrorKind::PeerDead { how }, String::new()).guilty([rank])
}
