//! What the algorithms would cost on a cluster: their own plans, run over a model of latency, bandwidth and reduction.
//!
//! A message costs its sender and its receiver a fixed time and a time per byte of a core; between hosts it takes the
//! network of either host for a time per byte, and its latency; ranks share the cores and the network of their host. Long
//! messages go in pieces, so that what follows byte by byte overlaps. Receivers have room for whatever is sent.

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

/// What a call costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How it is done.
    pub algorithm: Algorithm,
    /// Seconds until the last rank is through.
    pub seconds: f64,
    /// The longest chain of messages of which each one needs the one before.
    pub rounds: u32,
    /// The most bytes that a rank sends.
    pub sent: u64,
    /// What no algorithm can do better.
    pub bounds: Bounds,
}

/// Simulates a call, by the algorithm that the table says or by the one that is given.
///
/// # Errors
/// The cluster is not one, or too large; the algorithm's plans have too many steps for a world of this size that is not the
/// same seen from every host.
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
