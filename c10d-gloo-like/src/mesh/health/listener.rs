//! Handles the frames and the ends of control connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use c10d_core::{Error, ErrorKind};

use super::peers::Left;
use super::{Health, LEFT, Path};
use crate::mesh::claims;
use crate::mesh::connection::Listener;
use crate::mesh::control::Frame;

impl Listener for Health {
    fn handle(self: Arc<Self>, from: u32, frame: Frame) {
        if let Some(what) = claims::objection(&frame, from, self.rank, self.paths.len() as u32) {
            return self.broke_protocol(from, &what);
        }
        if let Frame::Revoke(revoke) = &frame
            && revoke.by == self.rank
            && self.state.lock().cause.is_none()
        {
            // This rank has not reported a failure, so the report is false. The first rank that forwarded it is named:
            // later ones may have believed it.
            let liar = revoke.via.filter(|via| *via != self.rank).unwrap_or(from);
            let what = format!("it sent a failure report of rank {}, which has reported no failure", self.rank);
            return self.broke_protocol(liar, &what);
        }
        match frame {
            Frame::Query { id, place } => {
                let state = Frame::State { id, place, doing: self.doing(), fingerprint: self.called(place) };
                if let Some(Path::Away(connection)) = self.path(from) {
                    connection.send(&state);
                }
            }
            Frame::Reach { of } => self.reach_for(from, of),
            Frame::Reached { of, alive } => self.decide(of, alive),
            Frame::State { id, place, doing, fingerprint } => {
                self.answered(from, id, doing);
                self.tell_askers(from, Some(id));
                self.compare(from, place, fingerprint);
            }
            Frame::Revoke(revoke) => self.revoked(from, revoke),
            Frame::Ask { from: number } => {
                let history = self.history(number);
                if let Some(Path::Away(connection)) = self.path(from) {
                    // If the asking rank does not read, this answer may be dropped.
                    connection.send_bytes(&Frame::Calls { last: false, history }.to_bytes(), false);
                }
            }
            Frame::Calls { last, history } => self.handle_calls(from, history, last),
            Frame::Goodbye { last, failed } => {
                self.has_gone(from, Left { last, at: Instant::now(), failed, exited: false })
            }
            Frame::Exited { last, failed } => {
                self.has_gone(from, Left { last, at: Instant::now(), failed, exited: true })
            }
        }
    }

    fn broke_protocol(self: Arc<Self>, peer: u32, what: &str) {
        let what = format!("rank {peer} broke the protocol of the control connection: {what}");
        self.fail(Error::new(ErrorKind::Protocol, what).guilty([peer]));
    }

    /// After a goodbye, the end of a connection is no failure.
    fn hung_up(self: Arc<Self>, from: u32, how: &str, watched: bool) -> bool {
        let unsure = {
            let mut state = self.state.lock();
            let failed = state.cause.is_some();
            state.peers.get_mut(from as usize).is_some_and(|peer| {
                peer.closed = true;
                let unsure = peer.left.is_none() && !failed;
                peer.unsure = unsure.then(|| how.to_owned());
                unsure
            })
        };
        self.tell_askers(from, None);
        let asked = unsure && self.ask_for(from);
        if unsure && !asked && !watched {
            self.decide(from, false);
        }
        self.wake();
        asked || (unsure && watched)
    }

    fn died(self: Arc<Self>, peer: u32, how: &str) {
        let left = {
            let mut state = self.state.lock();
            state.peers.get_mut(peer as usize).is_none_or(|peer| {
                peer.closed = true;
                peer.unsure = None;
                peer.left.is_some()
            })
        };
        self.tell_askers(peer, None);
        if !left {
            self.fail_of_deaths(how);
        }
        self.wake();
    }

    fn must_decide(self: Arc<Self>, peer: u32, watched: bool) {
        self.decide(peer, watched);
    }

    fn watch_failed(self: Arc<Self>, error: Error) {
        self.fail(error);
    }
}

impl Health {
    /// Records a peer's goodbye.
    fn has_gone(&self, from: u32, left: Left) {
        if let Some(peer) = self.state.lock().peers.get_mut(from as usize) {
            peer.left.get_or_insert(left);
        }
        self.doubts.lock().leave(from);
        self.alarm.fetch_or(LEFT, Ordering::AcqRel);
        self.wake();
    }
}
