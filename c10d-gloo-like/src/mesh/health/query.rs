//! Queries to peers about what they are doing, when a call takes longer than usual or its deadline has passed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use c10d_core::backend::Fingerprint;
use c10d_core::{Error, ErrorKind, OpKind, Phase};

use super::own::Messages;
use super::peers::{HealthState, Peer};
use super::{Health, Path};
use crate::mesh::answer::Answer;
use crate::mesh::control::Frame;
use crate::mesh::doing::{Doing, Refused, Wait, is_p2p};
use crate::mesh::verdict;
use c10d_core::calls::CallId;

/// How long the peers have to answer after a passed deadline. Live peers answer within a millisecond, on busy machines
/// within tens of milliseconds.
const ANSWER: Duration = Duration::from_millis(80);
/// The largest number of unanswered questions to a peer. More questions could fill the receive buffer of a stopped
/// peer, and the operating system would end the connection as if the peer's host were silent.
const UNANSWERED: u32 = 8;

impl Health {
    /// Registers the function that returns the waits of the messages. `ask_messages` is called once. The function must
    /// not block.
    pub(crate) fn ask_messages(&self, messages: Messages) {
        let _ = self.own.messages.set(messages);
    }

    /// Records that this call's collective waits for these ranks.
    pub(crate) fn waits(&self, fingerprint: &Fingerprint, on: Vec<u32>) {
        *self.own.waits.lock() = Some((CallId::of(fingerprint), Wait::of(fingerprint, on)));
    }

    /// Records that the collective no longer waits.
    pub(crate) fn moves(&self) {
        *self.own.waits.lock() = None;
    }

    /// Records that a call was rejected on this rank before anything was sent.
    pub(crate) fn refused(&self, op: OpKind, error: &Error) {
        let calls = self.calls(self.messages().map_or(0, |(_, calls)| calls));
        *self.own.refused.lock() = Some((Refused::new(op, error), calls));
    }

    fn messages(&self) -> Option<(Vec<Wait>, u64)> {
        self.own.messages.get().and_then(|ask| ask())
    }

    fn calls(&self, messages: u64) -> (u64, u64) {
        (self.call_log().begun(), messages)
    }

    pub(super) fn doing(&self) -> Doing {
        let position = self.call_log().position();
        let mut waits = Vec::new();
        if position.inside
            && let Some(fingerprint) = self.call_log().last()
        {
            let place = CallId::of(&fingerprint);
            let wait = self.own.waits.lock().as_ref().filter(|(at, _)| *at == place).map(|(_, wait)| wait.clone());
            waits.push(wait.unwrap_or_else(|| Wait::of(&fingerprint, Vec::new())));
        }
        let (messages, calls) = self.messages().unwrap_or_default();
        waits.extend(messages);
        let calls = self.calls(calls);
        let refused =
            self.own.refused.lock().as_ref().filter(|(_, at)| *at == calls).map(|(refused, _)| refused.clone());
        Doing { position, waits, refused }
    }

    /// Asks all peers for their call with this call's id, because this rank has waited in this call for long. If a
    /// peer's call differs, the group fails when the answer arrives.
    pub(crate) fn stalled(&self, fingerprint: &Fingerprint) {
        self.settle();
        if !self.failed() && !is_p2p(fingerprint) {
            self.ask(CallId::of(fingerprint));
        }
    }

    /// Handles the passed deadline of a collective that waits for these ranks, like [`Health::timed_out`].
    pub(crate) fn timeout(&self, fingerprint: &Fingerprint, waiting_for: &[u32]) -> Error {
        self.timed_out(fingerprint, &Wait::of(fingerprint, waiting_for.to_vec()))
    }

    /// Handles a passed deadline: finds out within 80 ms which rank is at fault, and fails the group. For a
    /// point-to-point call, only ranks in its chains of waits can be at fault.
    pub(crate) fn timed_out(&self, fingerprint: &Fingerprint, mine: &Wait) -> Error {
        self.settle();
        if self.failed() {
            return self.failure();
        }
        if !self.state.lock().dead().is_empty() {
            return self.fail_of_known_deaths("connection closed".to_owned());
        }
        let place = CallId::of(fingerprint);
        let answers = self.answers(Some(place));
        let collective = !is_p2p(fingerprint);
        let blame = verdict::judge(self.rank, collective.then_some(place), mine, &answers);
        let phase = if collective { Phase::Announce } else { Phase::Transfer };
        let mut error = Error::new(ErrorKind::Timeout, blame.words).guilty(blame.guilty).phase(phase);
        error.report_mut().seq = collective.then_some(fingerprint.seq.into());
        if blame.between { self.fail_between(error) } else { self.fail(error) }
    }

    /// Returns the error for this rank, which could not leave in time: the cause if the group has failed. Otherwise the
    /// error names the ranks for which this rank waits: if a `collective` is in flight, the ranks that are missing
    /// according to the answers of the peers, else `waiting_for`. The group does not fail.
    pub(crate) fn overdue(&self, what: &str, collective: bool, waiting_for: &[u32]) -> Error {
        if let Some(cause) = self.cause() {
            return cause;
        }
        let fingerprint = self.call_log().last().filter(|_| collective);
        let answers = self.answers(fingerprint.as_ref().map(CallId::of));
        let (guilty, who) = match &fingerprint {
            Some(fingerprint) => {
                let mine = Wait::of(fingerprint, waiting_for.to_vec());
                let blame = verdict::judge(self.rank, Some(CallId::of(fingerprint)), &mine, &answers);
                (blame.guilty, blame.words)
            }
            None => {
                let words = |rank: &u32| format!("rank {rank} {}", verdict::doing(answers.get(*rank as usize)));
                let words: Vec<String> = waiting_for.iter().map(words).collect();
                (waiting_for.to_vec(), words.join("; "))
            }
        };
        let sep = if who.is_empty() { "" } else { ": " };
        Error::new(ErrorKind::Timeout, format!("{what}{sep}{who}")).guilty(guilty).phase(Phase::Complete)
    }

    /// Asks all peers for their positions, and waits briefly for their answers.
    pub(super) fn answers(&self, place: Option<CallId>) -> Vec<Answer> {
        self.collect(self.ask(place.unwrap_or(CallId { seq: 0, step: 0 })))
    }

    /// Asks all peers for their positions, at most every 200 ms, because a message waits for long. If a peer's answer
    /// at the deadline is late, its answer to this earlier question is used.
    pub(crate) fn look_around(&self) {
        const EVERY: Duration = Duration::from_millis(200);
        let now = Instant::now();
        let due = {
            let mut last = self.own.looked.lock();
            let due = last.is_none_or(|last| now.duration_since(last) >= EVERY);
            if due {
                *last = Some(now);
            }
            due
        };
        if due && !self.failed() {
            self.ask(self.call_log().position().last.unwrap_or(CallId { seq: 0, step: 0 }));
        }
    }

    /// Asks all peers for their positions. Returns the number of the query. Peers in this process answer before `ask`
    /// returns.
    fn ask(&self, place: CallId) -> u32 {
        let id = self.queries.fetch_add(1, Ordering::Relaxed);
        let query = Frame::Query { id, place }.to_bytes();
        for (rank, path) in (0..).zip(&self.paths) {
            match path.get() {
                Some(Path::Away(connection)) if self.may_ask(rank) => connection.send_bytes(&query, false),
                Some(Path::Away(_)) => {}
                Some(Path::Here(peer)) => {
                    if let Some(peer) = peer.upgrade() {
                        self.answered(rank, id, peer.doing());
                        self.compare(rank, place, peer.called(place));
                    }
                }
                None => {}
            }
        }
        id
    }

    /// Counts a query to a peer of another process. Returns `false`, without counting, if too many queries are
    /// unanswered.
    fn may_ask(&self, rank: u32) -> bool {
        let mut state = self.state.lock();
        let peer = state.peers.get_mut(rank as usize);
        peer.is_some_and(|peer| {
            let may = peer.unanswered < UNANSWERED;
            peer.unanswered += u32::from(may);
            may
        })
    }

    pub(super) fn answered(&self, from: u32, id: u32, doing: Doing) {
        if let Some(peer) = self.state.lock().peers.get_mut(from as usize) {
            peer.unanswered = peer.unanswered.saturating_sub(1);
            peer.answer = Some((id, doing));
            peer.last_answer = Some(Instant::now());
        }
        self.news.notify_all();
    }

    /// Compares a peer's call at `place` with this rank's. If the calls differ, the group fails.
    pub(super) fn compare(&self, rank: u32, place: CallId, theirs: Option<Fingerprint>) {
        if let Some(theirs) = theirs
            && let Some(mine) = self.called(place)
            && mine != theirs
        {
            self.mismatch(rank, &mine, &theirs);
        }
    }

    /// Waits briefly for the answers to this query. Returns the result for each rank.
    fn collect(&self, id: u32) -> Vec<Answer> {
        let until = Instant::now() + ANSWER;
        let mut state = self.state.lock();
        let answer = |peer: &Peer| match (peer.left, &peer.answer) {
            (Some(left), _) => Answer::Left { last: left.last, exited: left.exited },
            (_, Some((at, doing))) if *at == id => Answer::At(doing.clone()),
            (_, before) => {
                let since = peer.last_answer.map_or(Duration::MAX, |at| at.elapsed());
                Answer::Silent { since, before: before.as_ref().map(|(_, doing)| doing.clone()) }
            }
        };
        let complete = |state: &HealthState| {
            let others = (0..).zip(&*state.peers).filter(|(rank, _)| *rank != self.rank);
            state.cause.is_some()
                || others.into_iter().all(|(_, p)| p.closed || !matches!(answer(p), Answer::Silent { .. }))
        };
        while !complete(&state) {
            if self.news.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.peers.iter().map(answer).collect()
    }
}
