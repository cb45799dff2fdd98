//! The cost of the algorithms on a cluster: simulates their plans over a model of latency, bandwidth and reduction.
//!
//! A message costs its sender and its receiver a fixed time of a core, and a time per byte. The message arrives after
//! the latency of its link. Between hosts, the message also takes a time per byte on the networks of both hosts. Ranks
//! share the cores and the network of their host. A rank can forward the first pieces of a long message before it has
//! the last ones. Receivers have room for all bytes that are sent to them.

mod bounds;
mod cluster;
mod event;
mod graph;
mod plans;
mod scenario;
#[cfg(test)]
mod tests;

use c10d_core::{Error, OpKind, Result};

use crate::schedule::{Algorithm, Selection, Table};

pub use bounds::Bounds;
pub use cluster::{Cluster, Link, MOST_RANKS};
pub use scenario::Scenario;

/// The ops that are simulated.
pub const OPS: [OpKind; 9] = [
    OpKind::AllReduce,
    OpKind::Reduce,
    OpKind::Broadcast,
    OpKind::ReduceScatterInto,
    OpKind::AllGatherInto,
    OpKind::AllToAllSingle,
    OpKind::Gather,
    OpKind::Scatter,
    OpKind::Barrier,
];

/// The cost of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The algorithm that was simulated.
    pub algorithm: Algorithm,
    /// The seconds until the last rank is done.
    pub seconds: f64,
    /// The length of the longest chain of messages in which each message depends on the one before it.
    pub rounds: u32,
    /// The largest number of bytes that a rank sends.
    pub sent: u64,
    /// The lower bounds for any algorithm.
    pub bounds: Bounds,
}

/// Simulates a call with `algorithm` or, for `None`, with the algorithm that the table chooses.
///
/// # Errors
/// The op is not simulated. The cluster is invalid or too large. The plans have too many steps, and the ranks of one
/// host cannot represent all ranks because the hosts have different steps.
pub fn simulate(scenario: Scenario, cluster: &Cluster, table: &Table, algorithm: Option<Algorithm>) -> Result<Outcome> {
    cluster.check()?;
    if !OPS.contains(&scenario.op) {
        return Err(Error::invalid(format!("{} is not simulated", scenario.op)));
    }
    let world = cluster.ranks();
    let chosen = || Selection::new(table, world, cluster.fabric()).choose(scenario.op, scenario.bytes, false);
    let algorithm = algorithm.unwrap_or_else(chosen);
    let graph = graph::Graph::new(scenario, cluster, algorithm, graph::MOST)?;
    let (seconds, rounds) = event::run(&graph, cluster);
    let bounds = Bounds::new(scenario, cluster);
    Ok(Outcome { algorithm, seconds: cluster.start + seconds, rounds, sent: graph.sent, bounds })
}
