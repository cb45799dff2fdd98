//! What connects the ranks of a group, and knows their health.
//!
//! Each rank publishes a [`hello`] in the store and reads everybody's; then each pair connects ([`dial`], [`accept`]),
//! by shared memory or TCP, and all learn how all others are connected ([`topology`]). From then on the store is not
//! needed. [`health`] lives as long as the group: it knows whether a peer died, left, stopped or called something else,
//! and sees to it that all ranks know.

mod accept;
mod addr;
mod blame;
mod connection;
mod control;
mod credentials;
mod dial;
mod doing;
mod doubts;
mod handshake;
mod health;
mod hello;
mod host;
mod join;
mod local;
mod netlink;
mod socket;
mod topology;
mod verdict;
mod watch;
mod wire;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Phase, Result, Store};

pub(crate) use addr::{ADDR, IFNAME};
pub(crate) use doing::{WAITS, Wait};
pub(crate) use doubts::{Doubt, Whom};
pub(crate) use health::Health;
pub(crate) use topology::Topology;

use join::Connections;

use crate::link::Link;
use crate::shm::{RingKind, Segment, ShmLink};
use crate::tcp::TcpLink;

/// Which way bytes may take between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Transport {
    /// Shared memory within a host, where it can be had; TCP otherwise.
    #[default]
    Auto,
    /// Shared memory or an error.
    Shm,
    /// TCP even within a process.
    Tcp,
}

impl Transport {
    /// Its name, as users write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Transport::Auto => "auto",
            Transport::Shm => "shm",
            Transport::Tcp => "tcp",
        }
    }

    /// The transport of this name.
    pub(crate) fn from_name(name: &str) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].into_iter().find(|t| t.name() == name)
    }

    fn from_code(code: u8) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].get(usize::from(code)).copied()
    }
}

/// What a rank needs to find the others.
pub(crate) struct Wiring {
    /// The group's name.
    pub(crate) group: Arc<str>,
    /// The own rank.
    pub(crate) rank: u32,
    /// How many ranks there are.
    pub(crate) size: u32,
    /// Random, the same on all ranks, another one for every group of every run.
    pub(crate) session: [u8; 16],
    /// A part of a store that belongs to this group and session alone.
    pub(crate) store: Arc<dyn Store>,
    /// The way bytes may take.
    pub(crate) transport: Transport,
    /// When all must be connected.
    pub(crate) deadline: Instant,
    /// How long nothing may be heard of a peer's host over TCP before the peer is given up. A peer that is stopped or
    /// late is heard: its kernel answers.
    pub(crate) silence: Duration,
    /// Tells which ranks are known to be gone already, from the group that this one is made from.
    pub(crate) lost: Lost,
    /// After how long a wait is spoken of.
    pub(crate) warn_after: Option<Duration>,
}

/// See [`Wiring`].
pub(crate) type Lost = Box<dyn Fn() -> Vec<u32> + Send + Sync>;

/// The connected ranks of a group.
pub(crate) struct Mesh {
    /// First, so that it is dropped first: peers hear the goodbye before their links break.
    pub(crate) membership: Membership,
    /// For collectives, one per peer; none for the own rank.
    pub(crate) collective: Vec<Option<Link>>,
    /// For point-to-point ops, likewise.
    pub(crate) p2p: Vec<Option<Link>>,
    /// Who is where.
    pub(crate) topology: Topology,
    /// The own segment, with the doorbell; `None` where no peer shares memory with this rank.
    pub(crate) segment: Option<Arc<Segment>>,
    /// All ranks on this host, the own one included, ascending.
    pub(crate) local_ranks: Vec<u32>,
    /// The group's health.
    pub(crate) health: Arc<Health>,
}

/// Being part of the group: its drop tells the peers that this rank leaves in good order.
pub(crate) struct Membership(Arc<Health>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Mesh {
    /// Connects the ranks. Every rank calls it, and it ends by the deadline; an error names the ranks that are missing
    /// or at odds, and reaches those that are connected already.
    pub(crate) fn connect(wiring: Wiring) -> Result<Mesh> {
        if wiring.rank >= wiring.size {
            let what = format!("rank {} in a group of {}: ranks go from 0 to size - 1", wiring.rank, wiring.size);
            return Err(Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous));
        }
        let health = Health::new(wiring.group.clone(), wiring.rank, wiring.size, wiring.warn_after);
        let membership = Membership(health.clone());
        let joined = if wiring.size == 1 { Ok(Connections::alone()) } else { join::join(&wiring, &health) };
        match joined {
            Ok(parts) => Ok(parts.into_mesh(wiring.rank, health, membership)),
            Err(error) => Err(health.fail(error)),
        }
    }
}

impl Connections {
    fn into_mesh(self, rank: u32, health: Arc<Health>, membership: Membership) -> Mesh {
        let Connections { topology, segment, pairs } = self;
        let local_ranks = topology.local_ranks(rank);
        if let Some(segment) = segment.clone() {
            health.on_news(Box::new(move || segment.ring_bell()));
        }
        health.shares(segment.clone(), pairs.iter().map(|pair| pair.segment.clone()).collect());
        // Where a rank lies in the segment of another: its place among that one's peers on the host.
        let index = |of: u32, within: u32| local_ranks.iter().filter(|r| **r != within && **r < of).count();
        let (mut collective, mut p2p) = (Vec::new(), Vec::new());
        for (peer, pair) in (0..).zip(pairs) {
            if pair.segment.is_none() {
                health.uses_tcp(peer);
            }
            let link = |kind, socket: Option<socket::Socket>| match (&segment, &pair.segment) {
                (Some(own), Some(theirs)) => Some(Link::Shm(ShmLink::new(
                    peer,
                    kind,
                    (own.clone(), index(peer, rank)),
                    (theirs.clone(), index(rank, peer)),
                ))),
                _ => socket.map(|s| Link::Tcp(TcpLink::new(TcpStream::from(s.into_fd()), peer))),
            };
            collective.push(link(RingKind::Collective, pair.collective));
            p2p.push(link(RingKind::PointToPoint, pair.p2p));
        }
        Mesh { membership, collective, p2p, topology, segment, local_ranks, health }
    }
}

#[cfg(test)]
mod tests;
