//! The parameters of a cluster.

use c10d_core::{Error, Result};

use crate::schedule::Fabric;

/// The largest number of ranks of a cluster.
pub const MOST_RANKS: u32 = 1 << 16;

/// The costs of a message between two ranks, in seconds or in seconds per byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// The time from the end of sending a piece until the receiver can take it.
    pub latency: f64,
    /// The core time per message, for the sender and for the receiver.
    pub message: f64,
    /// The core time of the sender per byte.
    pub send: f64,
    /// The core time of the receiver per byte.
    pub receive: f64,
    /// The core time of the receiver per byte that is received and reduced.
    pub reduce: f64,
    /// The time for which a byte occupies the network of a host. A host can send and receive at the same time.
    pub wire: f64,
}

/// A cluster of equal hosts, with consecutive ranks on each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cluster {
    /// The number of hosts.
    pub hosts: u32,
    /// The number of ranks on each host.
    pub per_host: u32,
    /// The number of cores that the ranks of a host share.
    pub cores: u32,
    /// The link between ranks of one host.
    pub inside: Link,
    /// The link between ranks of different hosts.
    pub between: Link,
    /// Whether ranks of one host share memory.
    pub shm: bool,
    /// Seconds per byte that is copied in memory.
    pub copy: f64,
    /// Seconds of a call before its first step.
    pub start: f64,
}

impl Cluster {
    /// Makes a cluster of hosts like the machine on which the built-in table was measured, with shared memory. The
    /// network between hosts has this bandwidth, in bytes per second, and this latency, in seconds.
    pub fn new(hosts: u32, per_host: u32, bytes_per_second: f64, latency: f64) -> Cluster {
        let wire = 1.0 / bytes_per_second;
        let between = Link { latency, message: 1.5e-6, send: 0.10e-9, receive: 0.12e-9, reduce: 0.20e-9, wire };
        let cores = per_host.max(1);
        Cluster { hosts, per_host, cores, inside: SHM, between, shm: true, copy: 0.03e-9, start: 0.15e-6 }
    }

    /// Makes a cluster of one host with this number of cores. Its ranks use shared memory, or TCP without `shm`.
    pub fn one_host(ranks: u32, cores: u32, shm: bool) -> Cluster {
        let inside = if shm { SHM } else { LOOPBACK };
        let alone = Cluster::new(1, ranks, 1.0, 0.0);
        Cluster { cores, inside, between: inside, shm, ..alone }
    }

    /// Returns the number of ranks.
    pub fn ranks(&self) -> u32 {
        self.hosts.saturating_mul(self.per_host)
    }

    /// Returns the kind of the cluster's connections, by which a table chooses algorithms.
    pub fn fabric(&self) -> Fabric {
        match (self.hosts, self.per_host, self.shm) {
            (1, _, true) => Fabric::Shm,
            (1, _, false) => Fabric::Loopback,
            (_, 2.., true) => Fabric::Mixed,
            _ => Fabric::Tcp,
        }
    }

    pub(super) fn host(&self, rank: u32) -> u32 {
        rank / self.per_host
    }

    pub(super) fn check(&self) -> Result {
        if self.hosts == 0 || self.per_host == 0 || self.cores == 0 {
            return Err(Error::invalid("a cluster needs at least one host, one rank per host and one core per host"));
        }
        if self.ranks() > MOST_RANKS {
            let (hosts, each) = (self.hosts, self.per_host);
            return Err(Error::invalid(format!("{hosts} hosts of {each} ranks: the limit is {MOST_RANKS} ranks")));
        }
        let links = [self.inside, self.between];
        let times = links.iter().flat_map(|l| [l.latency, l.message, l.send, l.receive, l.reduce, l.wire]);
        if times.chain([self.copy, self.start]).all(|t| t.is_finite() && t >= 0.0) {
            return Ok(());
        }
        Err(Error::invalid("a time of the cluster is invalid: each must be finite and not below 0"))
    }
}

/// The link between two ranks with a core each, in shared memory.
const SHM: Link =
    Link { latency: 0.12e-6, message: 0.08e-6, send: 0.03e-9, receive: 0.03e-9, reduce: 0.03e-9, wire: 0.0 };

/// The link between two ranks with a core each, through TCP on one host.
const LOOPBACK: Link =
    Link { latency: 2.0e-6, message: 1.5e-6, send: 0.10e-9, receive: 0.12e-9, reduce: 0.20e-9, wire: 0.0 };
