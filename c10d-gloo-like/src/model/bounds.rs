//! Lower bounds on the cost of a call, for all algorithms.

use c10d_core::OpKind;

use super::cluster::{Cluster, Link};
use super::scenario::Scenario;

/// Lower bounds on the cost of a call on a cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The time in seconds: the time before the first step ([`Cluster::start`]), plus the largest of these times:
    /// - the time of empty messages, one after the other: `log2(hosts)` messages between hosts and
    ///   `log2(ranks per host)` inside a host, each number rounded up (for gather, scatter and all_to_all one message);
    /// - the time that the network of the busiest host needs for its bytes;
    /// - the time that the core of the busiest rank needs for this rank's bytes.
    pub seconds: f64,
    /// The number of rounds: `log2(ranks)`, rounded up. In each round, a rank can at most double the number of ranks
    /// whose data it has. For gather, scatter and all_to_all, which need no forwarding, the number is 1. With one rank
    /// it is 0.
    pub rounds: u32,
    /// The bytes that the busiest rank sends.
    pub sent: u64,
}

impl Bounds {
    pub(super) fn new(scenario: Scenario, cluster: &Cluster) -> Bounds {
        let Scenario { op, bytes, .. } = scenario;
        let (n, hosts) = (f64::from(cluster.ranks()), f64::from(cluster.hosts));
        let all = bytes as f64;
        let others = |parts: f64| all * (parts - 1.0) / parts;
        // `sent`: the bytes that the busiest rank sends. `rank`: the bytes that the busiest rank sends or receives,
        // whichever are more. `host`: the same for the busiest host.
        let (sent, rank, host) = match op {
            OpKind::AllReduce => (2.0 * others(n), 2.0 * others(n), 2.0 * others(hosts)),
            OpKind::Broadcast | OpKind::Reduce => (all, all, if hosts > 1.0 { all } else { 0.0 }),
            OpKind::Scatter => (others(n), others(n), others(hosts)),
            OpKind::Gather => (all / n, others(n), others(hosts)),
            OpKind::AllGatherInto => (others(n) / (n - 1.0).max(1.0), others(n), others(hosts)),
            OpKind::ReduceScatterInto => (others(n), others(n), others(hosts) / 1.0),
            OpKind::AllToAllSingle => (others(n), others(n), others(hosts) * f64::from(cluster.per_host)),
            _ => (0.0, 0.0, 0.0),
        };
        let doublings = |parts: u32| parts.next_power_of_two().trailing_zeros();
        let link = |l: Link| l.latency + 2.0 * l.message;
        let (outer, inner) = (doublings(cluster.hosts), doublings(cluster.per_host));
        let rounds = match cluster.ranks() {
            1 => 0,
            _ if matches!(op, OpKind::Gather | OpKind::Scatter | OpKind::AllToAllSingle) => 1,
            _ => doublings(cluster.ranks()).min(outer + inner).max(1),
        };
        let latency = match op {
            OpKind::Gather | OpKind::Scatter | OpKind::AllToAllSingle if hosts > 1.0 => link(cluster.between),
            OpKind::Gather | OpKind::Scatter | OpKind::AllToAllSingle if n > 1.0 => link(cluster.inside),
            _ => f64::from(outer) * link(cluster.between) + f64::from(inner) * link(cluster.inside),
        };
        // The time that the busiest rank's core needs for the rank's bytes, each at the cost of the cheapest send or
        // receive on its links. If several ranks share the core, the time of the remaining ranks does not count.
        let links = if hosts > 1.0 { [cluster.inside, cluster.between] } else { [cluster.inside; 2] };
        let byte = links.iter().map(|l| l.send.min(l.receive)).fold(f64::INFINITY, f64::min);
        let core = rank * byte;
        let seconds = cluster.start + latency.max(host * cluster.between.wire).max(core);
        Bounds { seconds, rounds, sent: sent as u64 }
    }
}
