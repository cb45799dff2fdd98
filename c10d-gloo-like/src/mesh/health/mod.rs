//! The health of one group on one rank: whether it has failed, why, and what the peers are doing.
//!
//! All threads of the backend share it. The first cause wins and is told to all peers at once; what they tell comes in
//! by the watcher's thread, or directly from ranks of the same process.

mod doubt;
mod failure;
mod listener;
mod lost;
mod query;
mod reach;
mod remind;

pub(super) use lost::{BEFORE, gone};

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use c10d_core::backend::Fingerprint;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Phase, Result};

use super::connection::{Connection, Listener};
use super::control::Frame;
use super::doing::Doing;
use super::doubts::Doubts;
use super::revoke::Revoke;
use super::verdict;
use crate::call_log::{CallId, CallLog};

/// How long after a goodbye bytes, or the cause of a failure, may still be on their way: they come by another connection.
const UNDERWAY: Duration = Duration::from_secs(1);

/// How long the end of the program may wait for a failure that is just being told.
const EXIT: Duration = Duration::from_millis(100);

/// Something that wakes a thread which sleeps while it waits for peers.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

/// How a peer is told something.
pub(super) enum Path {
    /// It is a thread of this process.
    Here(Weak<Health>),
    /// It is another process.
    Away(Arc<Connection>),
}

const FAILED: u8 = 1;
/// Two peers disagree about a call that this rank has yet to make.
const DISPUTED: u8 = 2;
/// A peer has left.
const LEFT: u8 = 4;

/// See the module.
pub(crate) struct Health {
    group: Arc<str>,
    rank: u32,
    /// What happened, as bits: one load tells that all is well.
    alarm: AtomicU8,
    /// The call log, where none lies in shared memory.
    own_board: CallLog,
    call_logs: OnceLock<doubt::CallLogs>,
    /// The calls in which this rank heard of no peer. Held while nothing is told, and nothing fails.
    doubts: Mutex<Doubts>,
    /// A peer told of its calls.
    answers: Condvar,
    paths: Box<[OnceLock<Path>]>,
    state: Mutex<HealthState>,
    news: Condvar,
    wakers: Mutex<Vec<Waker>>,
    queries: AtomicU32,
    /// Held while a failure is told: no goodbye overtakes it.
    telling: Mutex<()>,
    own: query::Own,
    /// After how long a wait is spoken of.
    warn_after: Option<Duration>,
}

struct HealthState {
    cause: Option<Error>,
    dispute: Option<Box<Revoke>>,
    peers: Box<[Peer]>,
}

#[derive(Clone, Default)]
struct Peer {
    /// It said goodbye.
    left: Option<Left>,
    /// Its bytes come over TCP.
    tcp: bool,
    /// The connection is gone.
    closed: bool,
    /// When it said something last.
    heard: Option<Instant>,
    /// Its answer to this query.
    answer: Option<(u32, Doing)>,
    /// Questions that it has not answered.
    unanswered: u32,
    /// The connection ended like this, and it is not known whether the peer has ended, too.
    unsure: Option<String>,
    /// Ranks that want to know whether it answers, each with the question that it was asked for them.
    askers: Vec<(u32, u32)>,
}

/// A goodbye.
#[derive(Clone, Copy)]
struct Left {
    /// The last call before it.
    last: Option<CallId>,
    at: Instant,
    /// It was said because the group has failed; the cause comes by another connection, perhaps later.
    failed: bool,
    /// It was said by the end of the program, which did not leave the group.
    exited: bool,
}

impl Left {
    /// How the peer is gone.
    fn text(&self) -> String {
        verdict::left_text(self.last, self.exited)
    }
}

impl Peer {
    /// The goodbye of a peer of which no more bytes will come, since none came for this long.
    fn gone(&self, quiet: Duration) -> Option<Left> {
        let soon = self.tcp || self.left.is_some_and(|l| l.failed);
        let still = !self.tcp || quiet >= UNDERWAY;
        self.left.filter(|l| !soon || (l.at.elapsed() >= UNDERWAY && still))
    }
}

impl Health {
    pub(super) fn new(group: Arc<str>, rank: u32, size: u32, warn_after: Option<Duration>) -> Arc<Health> {
        let doubts = Mutex::new(Doubts::new(rank, size));
        let size = size as usize;
        Arc::new(Health {
            group,
            rank,
            alarm: AtomicU8::new(0),
            own_board: CallLog::new(),
            call_logs: OnceLock::new(),
            doubts,
            answers: Condvar::new(),
            paths: (0..size).map(|_| OnceLock::new()).collect(),
            state: Mutex::new(HealthState { cause: None, dispute: None, peers: vec![Peer::default(); size].into() }),
            news: Condvar::new(),
            wakers: Mutex::new(Vec::new()),
            queries: AtomicU32::new(0),
            telling: Mutex::new(()),
            own: query::Own::default(),
            warn_after,
        })
    }

    /// Says how to reach a peer. Once for each.
    pub(super) fn reach(&self, peer: u32, path: Path) {
        if let Some(slot) = self.paths.get(peer as usize) {
            let _ = slot.set(path);
        }
    }

    /// Says that the bytes of this peer come over TCP.
    pub(super) fn uses_tcp(&self, peer: u32) {
        if let Some(peer) = self.state.lock().peers.get_mut(peer as usize) {
            peer.tcp = true;
        }
    }

    /// Has `wake` called at every event that a sleeping thread may have to know of: a failure, or a peer that left.
    pub(crate) fn on_news(&self, wake: Waker) {
        let mut wakers = self.wakers.lock();
        wakers.push(wake);
        if let Some(wake) = wakers.last()
            && self.alarm.load(Ordering::Acquire) != 0
        {
            wake();
        }
    }

    /// Whether the group has failed. One load.
    #[inline]
    pub(crate) fn failed(&self) -> bool {
        self.alarm.load(Ordering::Acquire) & FAILED != 0
    }

    /// Why it failed.
    pub(crate) fn cause(&self) -> Option<Error> {
        let state = self.state.lock();
        state.cause.as_ref().map(|cause| state.with_all_dead(cause.clone()))
    }

    /// The cause, or nothing: for loops that wait.
    #[inline]
    pub(crate) fn check(&self) -> Result {
        if self.failed() { Err(self.failure()) } else { Ok(()) }
    }

    #[cold]
    fn failure(&self) -> Error {
        self.cause().unwrap_or_else(|| Error::new(ErrorKind::Internal, "the group failed without a cause"))
    }

    /// A collective begins: writes it into the call log, and refuses it where it cannot succeed any more: the group has
    /// failed, a peer left before it, or two peers disagree about it. Some nanoseconds as long as all is well.
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
            Some((_, left)) if left.failed && left.at.elapsed() < UNDERWAY => Ok(()),
            Some((rank, left)) => Err(self.fail(dead(rank, left.text()).phase(Phase::Announce))),
            None => Ok(()),
        }
    }

    /// Whether a collective was announced and is not over.
    pub(crate) fn is_in_call(&self) -> bool {
        self.call_log().position().inside
    }

    /// The collective that was announced last is over.
    #[inline]
    pub(crate) fn finish(&self) {
        self.call_log().end();
    }

    /// To be asked while waiting for bytes of `rank`, after finding none: an error if no more will come.
    ///
    /// What a peer wrote to shared memory before it left is there before this says so; look once more, then ask again.
    /// `quiet`: how long nothing came.
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

    /// Whether two peers disagree about a call that this rank has yet to make.
    #[cfg(test)]
    pub(super) fn disputed(&self) -> bool {
        self.alarm.load(Ordering::Acquire) & DISPUTED != 0
    }

    /// Whether this peer has said goodbye, and all its bytes are here, since none came for as long as `quiet`.
    pub(crate) fn has_left(&self, rank: u32, quiet: Duration) -> bool {
        self.alarm.load(Ordering::Acquire) & LEFT != 0
            && self.state.lock().peers.get(rank as usize).is_some_and(|p| p.gone(quiet).is_some())
    }

    /// Whether this peer takes nothing any more: it has said goodbye, or is gone.
    pub(crate) fn is_leaving(&self, rank: u32) -> bool {
        self.state.lock().peers.get(rank as usize).is_none_or(|p| p.left.is_some() || p.closed)
    }

    /// Tells all peers that this rank leaves in good order. They go on; what still needs this rank fails there.
    pub(super) fn leave(&self) {
        // For ranks that will make these calls later than this one is there to be asked.
        let history = self.last_word();
        if !history.calls.is_empty() {
            self.tell(&Frame::Told { last: true, history });
        }
        let _told = self.telling.lock();
        let last = self.call_log().last_ended();
        self.tell(&Frame::Goodbye { last, failed: self.failed() });
        for path in &self.paths {
            if let Some(Path::Away(connection)) = path.get() {
                connection.close();
            }
        }
    }

    /// Tells all peers that this program ends without leaving.
    pub(crate) fn exit(&self) {
        let _told = self.telling.try_lock_for(EXIT);
        let frame = Frame::Exited { last: self.call_log().last_ended(), failed: self.failed() };
        for path in &self.paths {
            // Ranks of this process end with it.
            if let Some(Path::Away(connection)) = path.get() {
                connection.send(&frame);
            }
        }
    }

    fn path(&self, peer: u32) -> Option<&Path> {
        self.paths.get(peer as usize)?.get()
    }

    fn tell(&self, frame: &Frame) {
        let bytes = frame.to_bytes();
        for path in &self.paths {
            match path.get() {
                Some(Path::Away(connection)) => connection.send_bytes(&bytes, true),
                Some(Path::Here(peer)) => {
                    if let Some(peer) = peer.upgrade() {
                        peer.heard(self.rank, frame.clone());
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
