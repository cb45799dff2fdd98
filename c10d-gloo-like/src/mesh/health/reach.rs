//! Decides whether a peer is alive after the control connection to it ended without a goodbye.
//!
//! This rank asks the other ranks whether their connections to the peer have ended, since all connections of a process
//! end with the process. If the peer's process is watched, the watcher notices the end of the process. If the peer is
//! alive, only the connection broke. In this case, the error is between the two ranks, and all ranks name both.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Phase};

use super::peers::UNDERWAY;
use super::{Health, Path, dead};
use crate::mesh::control::Frame;
use c10d_core::calls::CallId;

/// How long to wait after a data connection broke until the control connection delivers the reason, or ends because the
/// peer has died.
const REASON: Duration = Duration::from_millis(400);

impl Health {
    /// Sends arbitrary bytes to a peer over the control connection.
    #[cfg(test)]
    pub(in crate::mesh) fn forge(&self, peer: u32, bytes: &[u8]) {
        if let Some(Path::Away(connection)) = self.path(peer) {
            connection.send_bytes(bytes, true);
        }
    }

    /// Breaks the control connection to a peer, as a network fault would.
    #[cfg(test)]
    pub(in crate::mesh) fn cut(&self, peer: u32) {
        if let Some(Path::Away(connection)) = self.path(peer) {
            use crate::mesh::watch::Watched;
            rustix::net::shutdown(connection.fd(), rustix::net::Shutdown::Both).unwrap();
        }
    }

    /// Asks all other ranks whether they reach this peer. Returns `false` if no other rank is connected.
    pub(super) fn ask_for(&self, of: u32) -> bool {
        let others: Vec<u32> = {
            let state = self.state.lock();
            let there = (0..).zip(&*state.peers).filter(|(_, peer)| !peer.closed && peer.left.is_none());
            there.map(|(rank, _)| rank).filter(|rank| *rank != of && self.path(*rank).is_some()).collect()
        };
        others.iter().for_each(|rank| self.send_to(*rank, &Frame::Reach { of }));
        !others.is_empty()
    }

    /// Handles the question of `asker` whether this rank reaches rank `of`.
    pub(super) fn reach_for(&self, asker: u32, of: u32) {
        let here = matches!(self.path(of), Some(Path::Here(peer)) if peer.strong_count() > 0);
        let id = self.queries.fetch_add(1, Ordering::Relaxed);
        let gone = {
            let mut state = self.state.lock();
            let Some(peer) = state.peers.get_mut(of as usize) else { return };
            let gone = peer.left.is_some() || peer.closed;
            if !gone && !here {
                if peer.askers.iter().any(|(other, _)| *other == asker) {
                    // `asker` has an unanswered question.
                    return;
                }
                peer.askers.push((asker, id));
            }
            gone
        };
        if gone || here {
            self.send_to(asker, &Frame::Reached { of, alive: here && !gone });
        } else {
            self.send_to(of, &Frame::Query { id, place: CallId { seq: 0, step: 0 } });
        }
    }

    /// Answers the ranks that asked about peer `of`. If the peer has answered the query `answered`, the ranks for which
    /// this query was sent get an answer. For `None`, the connection to the peer has ended, and all ranks get an
    /// answer.
    pub(super) fn tell_askers(&self, of: u32, answered: Option<u32>) {
        let askers: Vec<u32> = {
            let mut state = self.state.lock();
            let Some(peer) = state.peers.get_mut(of as usize).filter(|peer| !peer.askers.is_empty()) else { return };
            let (askers, rest) =
                peer.askers.iter().partition(|(_, id)| answered.is_none_or(|answered| answered == *id));
            peer.askers = rest;
            let askers: Vec<(u32, u32)> = askers;
            askers.into_iter().map(|(asker, _)| asker).collect()
        };
        askers.into_iter().for_each(|asker| self.send_to(asker, &Frame::Reached { of, alive: answered.is_some() }));
    }

    /// Handles the decision whether a peer whose connection has ended is alive.
    pub(super) fn decide(self: &Arc<Self>, peer: u32, alive: bool) {
        let how = self.state.lock().peers.get_mut(peer as usize).and_then(|peer| peer.unsure.take());
        match how {
            Some(how) if alive => drop(self.broken(peer, &how)),
            Some(how) => self.fail_of_deaths(&how),
            None => {}
        }
    }

    /// Fails the group because the connection to a living peer broke. Returns the error.
    fn broken(&self, peer: u32, how: &str) -> Error {
        let (a, b) = (self.rank.min(peer), self.rank.max(peer));
        let broke = match how {
            "connection reset" | "connection closed" => "was reset".to_owned(),
            how => format!("broke ({how})"),
        };
        let how = format!("the connection between ranks {a} and {b} {broke}; both are alive");
        self.fail_between(Error::new(ErrorKind::PeerDead { how }, "").guilty([a, b]).phase(Phase::Transfer))
    }

    /// Handles the end of a peer's data connection: waits briefly until the control connection explains it or the peer
    /// shows that it is alive, and fails the group. Returns the error.
    pub(crate) fn lost(&self, rank: u32, how: &str) -> Error {
        let start = Instant::now();
        let id = self.queries.fetch_add(1, Ordering::Relaxed);
        if let Some(Path::Away(connection)) = self.path(rank) {
            connection.send(&Frame::Query { id, place: CallId { seq: 0, step: 0 } });
        }
        let mut state = self.state.lock();
        let mut alive = false;
        while state.cause.is_none() {
            let Some(peer) = state.peers.get(rank as usize) else { break };
            // The peer is alive if it answered this query or a later one.
            alive = peer.left.is_none()
                && !peer.closed
                && peer.answer.as_ref().is_some_and(|(at, _)| at.wrapping_sub(id) as i32 >= 0);
            let wait = match peer.left {
                // A peer that closed its end may be about to say goodbye.
                _ if alive && how != "connection closed" => break,
                Some(left) if !left.failed => break,
                Some(_) => UNDERWAY,
                None => REASON,
            };
            if self.news.wait_until(&mut state, start + wait).timed_out() {
                break;
            }
        }
        let left = state.peers.get(rank as usize).and_then(|p| p.left);
        drop(state);
        if alive {
            return self.broken(rank, how);
        }
        let how = left.map_or_else(|| how.to_owned(), |left| format!("{} ({how})", left.text()));
        self.fail(dead(rank, how).phase(Phase::Transfer))
    }
}
