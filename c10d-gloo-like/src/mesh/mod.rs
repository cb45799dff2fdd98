//! The connections between the ranks of a group, and their health.
//!
//! Each rank publishes a [`hello`] in the store and reads the hellos of all ranks. Then each pair connects ([`dial`],
//! [`accept`]) by shared memory or TCP, and all ranks learn how each pair is connected ([`topology`]). After that, the
//! store is not needed. The hellos of `c10d-core`, by which ranks agree on their backends, are separate, for two
//! reasons: some meshes (for staging, sparse lanes, and ranks that use NCCL) are made later, and a rank need not listen
//! before it knows which backends the group uses.
//!
//! [`health`] lives as long as the group. It finds out whether a peer died, left, stopped or made another call, and
//! tells all ranks.

mod accept;
mod addr;
mod answer;
mod chains;
mod claims;
mod connection;
mod control;
mod dial;
mod doing;
mod handshake;
mod health;
mod hello;
mod host;
mod join;
mod local;
mod netlink;
mod revoke;
mod socket;
mod topology;
mod verdict;
mod watch;
mod wire;
mod wiring;

use std::net::TcpStream;
use std::sync::Arc;

use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Phase, Result, Status};

pub(crate) use addr::{ADDR, IFNAME};
pub(crate) use doing::{WAITS, Wait};
pub(crate) use health::{Health, Open};
pub(crate) use topology::Topology;
pub(crate) use wiring::{Transport, Tuning, Wiring};

use join::Connections;

use crate::link::Link;
use crate::shm::{Multicast, RingKind, Segment, ShmLink};
use crate::tcp::TcpLink;

/// The connected ranks of a group.
pub(crate) struct Mesh {
    /// First field: peers get the goodbye before their links break.
    pub(crate) membership: Membership,
    /// The links for collectives, by rank; `None` for this rank.
    pub(crate) collective: Vec<Option<Link>>,
    /// The links for point-to-point ops, by rank; `None` for this rank.
    pub(crate) p2p: Vec<Option<Link>>,
    /// How each pair of ranks is connected.
    pub(crate) topology: Topology,
    /// This rank's segment, with the doorbell, if a peer shares memory with this rank.
    pub(crate) segment: Option<Arc<Segment>>,
    /// Whether the ranks on this host may have fewer cores than there are ranks.
    pub(crate) oversubscribed: bool,
    pub(crate) health: Arc<Health>,
}

/// The membership in the group. Its drop sends the goodbye to the peers.
pub(crate) struct Membership(Arc<Health>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Mesh {
    /// Connects the ranks of the group by the deadline. Every rank calls this function. An error names the ranks that
    /// are missing or disagree. The ranks that are already connected get the error as well.
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
            Err(mut error) => {
                // This error is returned even if the group has failed for another cause, which may be a consequence of
                // this error.
                let report = error.report_mut();
                report.status = Status::Failed;
                report.group.get_or_insert_with(|| wiring.group.clone());
                report.rank.get_or_insert(wiring.rank);
                health.fail(error.clone());
                Err(error)
            }
        }
    }
}

impl Connections {
    fn into_mesh(self, rank: u32, health: Arc<Health>, membership: Membership) -> Mesh {
        let Connections { topology, segment, pairs, processes, oversubscribed } = self;
        let local_ranks = topology.local_ranks(rank);
        if let Some(segment) = segment.clone() {
            health.on_news(Box::new(move || segment.ring_bell()));
        }
        health.shares(segment.clone(), pairs.iter().map(|pair| pair.segment.clone()).collect());
        // The index of rank `of` in the segment of rank `within`: its position among that rank's peers on the host.
        let index = |of: u32, within: u32| local_ranks.iter().filter(|r| **r != within && **r < of).count();
        let multicast = segment
            .as_ref()
            .and_then(|own| Multicast::new(own, local_ranks.iter().copied().filter(|peer| *peer != rank)));
        let multicast = multicast.map(|ring| Arc::new(Mutex::new(ring)));
        let (mut collective, mut p2p) = (Vec::new(), Vec::new());
        for ((peer, pair), process) in (0..).zip(pairs).zip(processes) {
            if pair.segment.is_none() {
                health.uses_tcp(peer);
            }
            let link = |kind, socket: Option<socket::Socket>| match (&segment, &pair.segment) {
                (Some(own), Some(theirs)) => {
                    let (own, theirs) = ((own.clone(), index(peer, rank)), (theirs.clone(), index(rank, peer)));
                    let link = ShmLink::new(peer, kind, own, theirs).with_reader(process);
                    Some(Link::Shm(match &multicast {
                        Some(ring) if kind == RingKind::Collective => {
                            link.with_multicast(ring.clone(), index(peer, rank))
                        }
                        _ => link,
                    }))
                }
                _ => socket.map(|s| Link::Tcp(TcpLink::new(TcpStream::from(s.into_fd()), peer))),
            };
            collective.push(link(RingKind::Collective, pair.collective));
            p2p.push(link(RingKind::PointToPoint, pair.p2p));
        }
        Mesh { membership, collective, p2p, topology, segment, oversubscribed, health }
    }
}

#[cfg(test)]
mod tests;
