//! The health of one group on one rank: whether it has failed, why, and what the peers are doing.
//!
//! All threads of the backend share it. The first cause wins and is told to all peers at once; what they tell comes in
//! by the watcher's thread, or directly from ranks of the same process.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Fingerprint, Phase, Result, Status};
use parking_lot::{Condvar, Mutex};

use super::board::{Board, Place};
use super::connection::Connection;
use super::control::{Frame, Revoke};
use super::verdict::{self, Adopted, Answer};

/// How long, past a deadline, peers have to say what they are doing. Live ones do within a millisecond, on busy machines
/// within some ten.
const ANSWER: Duration = Duration::from_millis(80);
/// How long a broken data connection waits for the control connection to say why, or to break too, as it does when the
/// peer has died.
const REASON: Duration = Duration::from_millis(400);

/// How long after a goodbye bytes, or the cause of a failure, may still be on their way: they come by another connection.
const UNDERWAY: Duration = Duration::from_secs(1);

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
    board: Board,
    paths: Box<[OnceLock<Path>]>,
    state: Mutex<State>,
    news: Condvar,
    wakers: Mutex<Vec<Waker>>,
    queries: AtomicU32,
    /// Held while a failure is told: no goodbye overtakes it.
    telling: Mutex<()>,
}

struct State {
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
    answer: Option<(u32, Answer)>,
}

/// A goodbye.
#[derive(Clone, Copy)]
struct Left {
    /// The last call before it.
    last: Option<Place>,
    at: Instant,
    /// It was said because the group has failed; the cause comes by another connection, perhaps later.
    failed: bool,
}

impl Peer {
    /// The last call of a peer of which no more bytes will come.
    fn gone(&self) -> Option<Option<Place>> {
        let soon = self.tcp || self.left.is_some_and(|l| l.failed);
        self.left.filter(|l| !soon || l.at.elapsed() >= UNDERWAY).map(|l| l.last)
    }
}

impl Health {
    pub(super) fn new(group: Arc<str>, rank: u32, size: u32) -> Arc<Health> {
        let size = size as usize;
        Arc::new(Health {
            group,
            rank,
            alarm: AtomicU8::new(0),
            board: Board::new(),
            paths: (0..size).map(|_| OnceLock::new()).collect(),
            state: Mutex::new(State { cause: None, dispute: None, peers: vec![Peer::default(); size].into() }),
            news: Condvar::new(),
            wakers: Mutex::new(Vec::new()),
            queries: AtomicU32::new(0),
            telling: Mutex::new(()),
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
        self.state.lock().cause.clone()
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

    /// A collective begins: writes it on the board, and refuses it where it cannot succeed any more: the group has
    /// failed, a peer left before it, or two peers disagree about it. Some nanoseconds as long as all is well.
    #[inline]
    pub(crate) fn announce(&self, print: &Fingerprint) -> Result {
        self.board.begin(print);
        if self.alarm.load(Ordering::Acquire) == 0 { Ok(()) } else { self.refuse(print) }
    }

    #[cold]
    fn refuse(&self, print: &Fingerprint) -> Result {
        self.settle();
        self.check()?;
        let place = Place::of(print);
        let gone = {
            let state = self.state.lock();
            let before = |last: Option<Place>| last.is_none_or(|last| last.is_before(place));
            let left = (0..).zip(&*state.peers).filter_map(|(rank, p)| Some((rank, p.left?)));
            left.into_iter().find(|(_, left)| before(left.last))
        };
        match gone {
            Some((_, left)) if left.failed && left.at.elapsed() < UNDERWAY => Ok(()),
            Some((rank, left)) => Err(self.fail(dead(rank, verdict::left_text(left.last)).phase(Phase::Announce))),
            None => Ok(()),
        }
    }

    /// The collective that was announced last is over.
    #[inline]
    pub(crate) fn finish(&self) {
        self.board.end();
    }

    /// The group has failed: keeps the error unless there is an earlier cause, tells all peers, wakes who sleeps.
    /// Gives the first cause. Never blocks.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.fail_with(error, None)
    }

    /// The same for a disagreement that was found in a message of `rank`, which came with the call `theirs`.
    pub(crate) fn mismatch(&self, rank: u32, mine: &Fingerprint, theirs: &Fingerprint) -> Error {
        let error = verdict::mismatch(rank, mine, theirs).unwrap_or_else(|| {
            Error::new(ErrorKind::Protocol, "a peer's call was taken for another one").guilty([rank])
        });
        self.fail_with(error, Some([(self.rank, *mine), (rank, *theirs)]))
    }

    /// A peer's data connection broke: the peer is gone. Waits a moment for the control connection to say why.
    pub(crate) fn lost(&self, rank: u32, how: &str) -> Error {
        let start = Instant::now();
        let mut state = self.state.lock();
        let left = |state: &State| state.peers.get(rank as usize).and_then(|p| p.left);
        while state.cause.is_none() {
            let wait = match left(&state) {
                Some(left) if !left.failed => break,
                Some(_) => UNDERWAY,
                None => REASON,
            };
            if self.news.wait_until(&mut state, start + wait).timed_out() {
                break;
            }
        }
        let left = left(&state).map(|l| l.last);
        drop(state);
        let how = left.map_or_else(|| how.to_owned(), |last| format!("{} ({how})", verdict::left_text(last)));
        self.fail(dead(rank, how).phase(Phase::Transfer))
    }

    /// To be asked while waiting for bytes of `rank`, after finding none: an error if no more will come.
    ///
    /// What a peer wrote to shared memory before it left is there before this says so; look once more, then ask again.
    #[inline]
    pub(crate) fn needs(&self, rank: u32) -> Result {
        if self.alarm.load(Ordering::Acquire) & (FAILED | LEFT) == 0 { Ok(()) } else { self.needs_slow(rank) }
    }

    #[cold]
    fn needs_slow(&self, rank: u32) -> Result {
        self.check()?;
        let gone = self.state.lock().peers.get(rank as usize).and_then(Peer::gone);
        match gone {
            Some(last) => Err(self.fail(dead(rank, verdict::left_text(last)).phase(Phase::Transfer))),
            None => Ok(()),
        }
    }

    /// Whether two peers disagree about a call that this rank has yet to make.
    #[cfg(test)]
    pub(super) fn disputed(&self) -> bool {
        self.alarm.load(Ordering::Acquire) & DISPUTED != 0
    }

    /// Whether this peer has said goodbye, and all its bytes are here.
    pub(crate) fn has_left(&self, rank: u32) -> bool {
        self.alarm.load(Ordering::Acquire) & LEFT != 0
            && self.state.lock().peers.get(rank as usize).is_some_and(|p| p.gone().is_some())
    }

    /// The call waits longer than usual: asks all peers what they called at this place. If one called something else,
    /// the group fails when its answer is in. Two ranks that wait for different things find out this way.
    pub(crate) fn stalled(&self, print: &Fingerprint) {
        self.settle();
        if !self.failed() && !verdict::is_p2p(print) {
            self.ask(Place::of(print));
        }
    }

    /// The deadline has passed: finds out within 80 ms who is at fault, and fails the group. Of a point-to-point call,
    /// only the ranks in `waiting_for` can be.
    pub(crate) fn timeout(&self, print: &Fingerprint, waiting_for: &[u32]) -> Error {
        self.settle();
        if self.failed() {
            return self.failure();
        }
        let place = Place::of(print);
        let answers = self.collect(self.ask(place));
        let collective = !verdict::is_p2p(print);
        let (guilty, who) = verdict::judge(self.rank, collective.then_some(place), waiting_for, &answers);
        let phase = if collective { Phase::Announce } else { Phase::Transfer };
        let mut error = Error::new(ErrorKind::Timeout, who).guilty(guilty).phase(phase);
        error.report_mut().seq = collective.then_some(print.seq.into());
        self.fail(error)
    }

    /// Tells all peers that this rank leaves in good order. They go on; what still needs this rank fails there.
    pub(super) fn leave(&self) {
        let _told = self.telling.lock();
        let last = self.board.last_ended();
        self.tell(&Frame::Goodbye { last, failed: self.failed() });
        for path in &self.paths {
            if let Some(Path::Away(connection)) = path.get() {
                connection.close();
            }
        }
    }

    /// A peer said something.
    pub(super) fn hear(&self, from: u32, frame: Frame) {
        match frame {
            Frame::Query { id, place } => {
                let state = Frame::State { id, place, position: self.board.position(), print: self.board.find(place) };
                if let Some(Path::Away(connection)) = self.path(from) {
                    connection.send(&state);
                }
            }
            Frame::State { id, place, position, print } => {
                self.answered(from, id, Answer::At(position));
                self.compare(from, place, print);
            }
            Frame::Revoke(revoke) => self.revoked(revoke),
            Frame::Goodbye { last, failed } => {
                if let Some(peer) = self.state.lock().peers.get_mut(from as usize) {
                    peer.left.get_or_insert(Left { last, at: Instant::now(), failed });
                }
                self.alarm.fetch_or(LEFT, Ordering::AcqRel);
                self.wake();
            }
        }
    }

    /// A peer's control connection ended. After a goodbye that is in order.
    pub(super) fn hung_up(&self, from: u32, how: &str) {
        let left = {
            let mut state = self.state.lock();
            state.peers.get_mut(from as usize).is_none_or(|peer| {
                peer.closed = true;
                peer.left.is_some()
            })
        };
        if !left {
            self.fail(dead(from, how.to_owned()));
        }
        self.wake();
    }

    fn path(&self, peer: u32) -> Option<&Path> {
        self.paths.get(peer as usize)?.get()
    }

    fn fail_with(&self, error: Error, prints: Option<[(u32, Fingerprint); 2]>) -> Error {
        let revoke = Revoke::of(self.rank, &error, prints);
        self.keep(error, revoke)
    }

    /// Keeps the first cause and gives it. The first one is told to all peers, in the words of the rank that met it,
    /// and only then becomes visible here: nobody leaves because of it, and is missed, before the peers know why.
    fn keep(&self, error: Error, revoke: Revoke) -> Error {
        if let Some(cause) = self.cause() {
            return cause;
        }
        // Whoever holds this and tells has set the cause before, so two ranks that tell each other wait for neither.
        let telling = self.telling.lock();
        let (cause, revoke) = {
            let mut state = self.state.lock();
            if let Some(cause) = &state.cause {
                return cause.clone();
            }
            // A disagreement that was heard of came before.
            let (mut error, revoke) = match state.dispute.take() {
                Some(dispute) if !matches!(error.kind(), ErrorKind::Mismatch { .. }) => {
                    (verdict::third_party(self.rank, &dispute), *dispute)
                }
                _ => (error, revoke),
            };
            let report = error.report_mut();
            report.status = Status::Failed;
            report.group.get_or_insert_with(|| self.group.clone());
            report.rank.get_or_insert(self.rank);
            state.cause = Some(error.clone());
            (error, revoke)
        };
        self.tell(&Frame::Revoke(Box::new(revoke)));
        self.alarm.fetch_or(FAILED, Ordering::AcqRel);
        drop(telling);
        self.wake();
        cause
    }

    /// A failure that another rank reports.
    fn revoked(&self, revoke: Box<Revoke>) {
        match self.adopt(&revoke) {
            Adopted::Cause(error) => drop(self.keep(error, *revoke)),
            Adopted::Later => {
                let mut state = self.state.lock();
                if state.cause.is_none() && state.dispute.is_none() {
                    state.dispute = Some(revoke);
                    self.alarm.fetch_or(DISPUTED, Ordering::AcqRel);
                }
            }
        }
        self.wake();
    }

    /// Decides a dispute that this rank's own call has reached by now.
    fn settle(&self) {
        if self.alarm.load(Ordering::Acquire) & DISPUTED == 0 {
            return;
        }
        let Some(revoke) = self.state.lock().dispute.clone() else { return };
        if let Adopted::Cause(error) = self.adopt(&revoke) {
            self.keep(error, *revoke);
        }
    }

    fn adopt(&self, revoke: &Revoke) -> Adopted {
        verdict::adopt(self.rank, revoke, |place| self.board.find(place), self.board.position())
    }

    /// Asks all peers where they are. Those in this process need not be waited for.
    fn ask(&self, place: Place) -> u32 {
        let id = self.queries.fetch_add(1, Ordering::Relaxed);
        let query = Frame::Query { id, place }.to_bytes();
        for (rank, path) in (0..).zip(&self.paths) {
            match path.get() {
                Some(Path::Away(connection)) => connection.send_bytes(&query, false),
                Some(Path::Here(peer)) => {
                    if let Some(peer) = peer.upgrade() {
                        self.answered(rank, id, Answer::At(peer.board.position()));
                        self.compare(rank, place, peer.board.find(place));
                    }
                }
                None => {}
            }
        }
        id
    }

    fn answered(&self, from: u32, id: u32, answer: Answer) {
        if let Some(peer) = self.state.lock().peers.get_mut(from as usize) {
            peer.answer = Some((id, answer));
            peer.heard = Some(Instant::now());
        }
        self.news.notify_all();
    }

    fn compare(&self, rank: u32, place: Place, theirs: Option<Fingerprint>) {
        if let Some(theirs) = theirs
            && let Some(mine) = self.board.find(place)
            && mine != theirs
        {
            self.mismatch(rank, &mine, &theirs);
        }
    }

    /// Waits for the answers to this query, but not for long.
    fn collect(&self, id: u32) -> Vec<Answer> {
        let until = Instant::now() + ANSWER;
        let mut state = self.state.lock();
        let answer = |peer: &Peer| match (peer.left, peer.answer) {
            (Some(left), _) => Answer::Left(left.last),
            (_, Some((at, answer))) if at == id => answer,
            _ => Answer::Silent(peer.heard.map_or(Duration::MAX, |at| at.elapsed())),
        };
        let complete = |state: &State| {
            let others = (0..).zip(&*state.peers).filter(|(rank, _)| *rank != self.rank);
            state.cause.is_some()
                || others.into_iter().all(|(_, p)| p.closed || !matches!(answer(p), Answer::Silent(_)))
        };
        while !complete(&state) {
            if self.news.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.peers.iter().map(answer).collect()
    }

    fn tell(&self, frame: &Frame) {
        let bytes = frame.to_bytes();
        for path in &self.paths {
            match path.get() {
                Some(Path::Away(connection)) => connection.send_bytes(&bytes, true),
                Some(Path::Here(peer)) => {
                    if let Some(peer) = peer.upgrade() {
                        peer.hear(self.rank, frame.clone());
                    }
                }
                None => {}
            }
        }
    }

    fn wake(&self) {
        self.news.notify_all();
        self.wakers.lock().iter().for_each(|wake| wake());
    }
}

fn dead(rank: u32, how: String) -> Error {
    Error::new(ErrorKind::PeerDead { how }, String::new()).guilty([rank])
}
