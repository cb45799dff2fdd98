//! A rank that leaves its group waits until its messages are done.

use std::time::Instant;

use c10d_core::store::deadline_after;

use super::Messages;
use super::live::Live;
use super::state::MessageState;
use crate::link::Link;
use crate::mesh::Health;

/// The unfinished messages of a rank that leaves.
#[derive(Default)]
pub(crate) struct Unsettled {
    /// Whether messages are in flight.
    pub(crate) in_flight: bool,
    /// The ranks for which these messages wait.
    pub(crate) waits_for: Vec<u32>,
    /// The ranks that have not received all bytes that this rank sent to them.
    pub(crate) untaken: Vec<u32>,
}

impl Messages {
    /// Waits until no message is in flight and the peers have received all data, or until `deadline`. Returns what is
    /// unfinished. If no message is in flight, but peers have not received all data, the wait ends after the longest
    /// timeout of a send. During the wait, this rank receives even messages that no receive has asked for, since a peer
    /// may have to send them before it can receive.
    pub(crate) fn settle(&self, deadline: Instant) -> Unsettled {
        let patient = deadline.min(deadline_after(self.state.lock().patience));
        let mut left = Unsettled::default();
        self.attend(false, |state| {
            left = if self.health.failed() { Unsettled::default() } else { state.unsettled(&self.health) };
            left.in_flight = !state.is_idle();
            let now = Instant::now();
            (!left.in_flight && (left.untaken.is_empty() || now >= patient)) || now >= deadline
        });
        left
    }

    pub(crate) fn unsettled(&self) -> Unsettled {
        self.state.lock().unsettled(&self.health)
    }

    /// Whether peers still have to receive bytes of finished sends. `None` if another thread uses the links.
    pub(crate) fn untaken(&self) -> Option<bool> {
        let state = self.state.try_lock()?;
        Some(!state.unsettled(&self.health).untaken.is_empty())
    }

    /// Ends the streams to the peers, unless a message is in flight.
    pub(crate) fn finish(&self) {
        let state = self.state.lock();
        if state.is_idle() {
            state.links().for_each(|(_, link)| link.finish());
        }
    }
}

impl MessageState {
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        (0..).zip(&self.peers).filter_map(|(rank, peer)| Some((rank, &peer.as_ref()?.link)))
    }

    /// Returns the ranks for which the messages in flight wait, and those that have not received all bytes of this
    /// rank.
    pub(super) fn unsettled(&self, health: &Health) -> Unsettled {
        let mut waits_for: Vec<u32> = self.live.iter().flat_map(|l| self.waited_for(l)).collect();
        waits_for.sort_unstable();
        waits_for.dedup();
        let untaken = self.links().filter(|(rank, link)| link.is_untaken() && !health.is_leaving(*rank));
        Unsettled { in_flight: !self.is_idle(), waits_for, untaken: untaken.map(|(rank, _)| rank).collect() }
    }

    /// Returns the ranks for which a message waits.
    fn waited_for(&self, live: &Live) -> Vec<u32> {
        let everybody = || (0..self.peers.len() as u32).filter(|r| self.peers[*r as usize].is_some()).collect();
        live.peer.map_or_else(everybody, |peer| vec![peer])
    }
}
