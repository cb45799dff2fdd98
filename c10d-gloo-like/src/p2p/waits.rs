//! How long the messages of one rank wait, and for which ranks.

use std::time::{Duration, Instant};

use c10d_core::backend::Fingerprint;

use super::live::{Live, Posted};
use super::message::{Incoming, Target};
use super::peer::Peer;
use super::state::MessageState;
use super::ticket::Ticket;
use crate::mesh::{Health, WAITS, Wait};

/// A message that has waited long.
pub(super) struct Long {
    pub(super) wait: Wait,
    /// The number of other messages that have waited long.
    pub(super) others: usize,
    pub(super) lasted: Duration,
    pub(super) deadline: Instant,
}

impl MessageState {
    /// Returns a peer that has left although a job needs its data. `quiet` is the time since data last moved.
    pub(super) fn needs(&self, health: &Health, quiet: Duration) -> Option<u32> {
        let named = |l: &Live| l.peer.filter(|p| health.has_left(*p, quiet));
        let all_left = || {
            let mut ranks = (0..self.peers.len() as u32).filter(|r| self.peers[*r as usize].is_some());
            ranks.all(|r| health.has_left(r, quiet))
        };
        self.live.iter().find_map(|l| match l.peer {
            Some(_) => named(l),
            None if all_left() => (0..self.peers.len() as u32).find(|r| self.peers[*r as usize].is_some()),
            None => None,
        })
    }

    /// Returns the waits of up to [`WAITS`] calls in flight that have a deadline, and the number of calls. If a thread
    /// waits inside a call, started calls are omitted: a program may start a call long before the other rank makes its
    /// own.
    pub(super) fn waits(&self) -> (Vec<Wait>, u64) {
        let ops = || self.live.iter().filter(|l| !l.endless);
        let waited_for = ops().any(|l| !l.started);
        let first = ops().filter(|l| !(waited_for && l.started)).take(WAITS);
        (first.map(Live::wait).collect(), self.next)
    }

    /// Whether a job in flight has a deadline.
    pub(super) fn is_bounded(&self) -> bool {
        self.live.iter().any(|l| !l.endless)
    }

    /// Finds the unreported calls that have waited for `after`, and marks them as reported. Returns the first of them,
    /// and the number of the others.
    pub(super) fn long(&mut self, now: Instant, after: Duration) -> Option<Long> {
        let waited = |l: &Live| l.since.map_or(Duration::ZERO, |since| now.duration_since(since));
        let long = |l: &&mut Live| !l.reported && !l.endless && waited(l) >= after;
        let mut first = None;
        let mut count = 0;
        for live in self.live.iter_mut().filter(long) {
            live.reported = true;
            count += 1;
            first.get_or_insert_with(|| (live.wait(), waited(live), live.deadline.unwrap_or(now)));
        }
        first.map(|(wait, lasted, deadline)| Long { wait, others: count - 1, lasted, deadline })
    }

    /// Returns a call whose deadline has passed, and its wait. Records when each job is first found waiting.
    pub(super) fn late(&mut self, now: Instant) -> Option<(Fingerprint, Wait)> {
        let peers = &self.peers;
        let posted = &self.posted;
        for live in &mut self.live {
            live.since.get_or_insert(now);
            let deadline = *live.deadline.get_or_insert_with(|| deadline_of(live.ticket, posted, peers).unwrap_or(now));
            if now >= deadline {
                return Some((live.fingerprint, live.wait()));
            }
        }
        None
    }
}

/// Returns the deadline of a job in one of these queues.
fn deadline_of(ticket: Ticket, posted: &[Posted], peers: &[Option<Peer>]) -> Option<Instant> {
    let receive = posted.iter().find(|p| p.ticket == ticket).map(|p| p.job.request());
    let mut on_the_way = peers.iter().flatten().filter_map(|peer| {
        let out = peer.outgoing.iter().find(|(t, _)| *t == ticket).map(|(_, m)| m.job.request());
        out.or_else(|| match &peer.incoming {
            Some((t, Incoming { target: Target::Job(job), .. })) if *t == ticket => Some(job.request()),
            _ => None,
        })
    });
    receive.or_else(|| on_the_way.next()).map(|request| request.deadline())
}
