//! The connections between the ranks of a group, and their health.
//!
//! Each rank publishes a [`hello`] in the store and reads those of all ranks. Then each pair connects ([`dial`],
//! [`accept`]) by shared memory or TCP, and all learn how all others are connected ([`topology`]). From then on the
//! store is not needed. The records are separate from the hello by which core's ranks agree on their backends: meshes
//! for staging, for the side channel of NCCL and for sparse lanes are made later and need this exchange in any case.
//! One common record would save a rank 4 of its 17 requests to the store, but every rank would have to listen before
//! the purpose of the mesh is known.
//!
//! [`health`] lives as long as the group. It knows whether a peer died, left, stopped or made another call, and reports
//! it to all ranks.

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

use c10d_core::{Error, ErrorKind, Phase, Result, Status};

pub(crate) use addr::{ADDR, IFNAME};
pub(crate) use doing::{WAITS, Wait};
pub(crate) use health::{Health, Open};
pub(crate) use topology::Topology;
pub(crate) use wiring::{Transport, Tuning, Wiring};

use join::Connections;

use crate::link::Link;
use crate::shm::{RingKind, Segment, ShmLink};
use crate::tcp::TcpLink;

/// The connected ranks of a group.
pub(crate) struct Mesh {
    /// The first field, so that it is dropped first: peers get the goodbye before their links break.
    pub(crate) membership: Membership,
    /// The links for collectives, by rank; `None` for the own rank.
    pub(crate) collective: Vec<Option<Link>>,
    /// The links for point-to-point ops, by rank; `None` for the own rank.
    pub(crate) p2p: Vec<Option<Link>>,
    /// How each pair of ranks is connected.
    pub(crate) topology: Topology,
    /// This rank's segment, with the doorbell; `None` if no peer shares memory with this rank.
    pub(crate) segment: Option<Arc<Segment>>,
    /// Whether this host has more ranks than cores that they may use.
    pub(crate) oversubscribed: bool,
    /// The group's health.
    pub(crate) health: Arc<Health>,
}

/// The membership in the group. Its drop tells the peers that this rank leaves.
pub(crate) struct Membership(Arc<Health>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Mesh {
    /// Connects the ranks of the group. Every rank calls this. It returns by the deadline. The error names the ranks
    /// that are missing or disagree; the ranks that are already connected get it, too.
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
                // This error is returned even if the group has failed by another cause: that cause may be a consequence
                // of this error.
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
        // The index of a rank in the segment of another: its place among that rank's peers on the host.
        let index = |of: u32, within: u32| local_ranks.iter().filter(|r| **r != within && **r < of).count();
        let (mut collective, mut p2p) = (Vec::new(), Vec::new());
        for ((peer, pair), process) in (0..).zip(pairs).zip(processes) {
            if pair.segment.is_none() {
                health.uses_tcp(peer);
            }
            let link = |kind, socket: Option<socket::Socket>| match (&segment, &pair.segment) {
                (Some(own), Some(theirs)) => {
                    let (own, theirs) = ((own.clone(), index(peer, rank)), (theirs.clone(), index(rank, peer)));
                    Some(Link::Shm(ShmLink::new(peer, kind, own, theirs).with_reader(process)))
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
