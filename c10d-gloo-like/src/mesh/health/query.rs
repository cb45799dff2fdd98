//! What the peers are doing: asked where a call takes longer than usual, and when its deadline has passed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Fingerprint, Phase};

use super::{Health, Path, Peer, State};
use crate::mesh::board::Place;
use crate::mesh::control::Frame;
use crate::mesh::verdict::{self, Answer};

/// How long, past a deadline, peers have to say what they are doing. Live ones do within a millisecond, on busy machines
/// within some ten.
const ANSWER: Duration = Duration::from_millis(80);
impl Health {
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

    /// An answer has come.
    pub(super) fn answered(&self, from: u32, id: u32, answer: Answer) {
        if let Some(peer) = self.state.lock().peers.get_mut(from as usize) {
            peer.answer = Some((id, answer));
            peer.heard = Some(Instant::now());
        }
        self.news.notify_all();
    }

    /// What a peer called at a place: another call than ours fails the group.
    pub(super) fn compare(&self, rank: u32, place: Place, theirs: Option<Fingerprint>) {
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
}
