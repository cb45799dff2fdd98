//! The ops that `perf` can time: those of the op table (`OpKind`), and some others that are commonly measured.

use c10d::OpKind;
use c10d::backend::Shape;

/// An op to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PerfOp {
    /// An op of the table. Rooted ops have root 0. For point-to-point ops, rank 0 makes the named call, and rank 1
    /// makes the matching call.
    Table(OpKind),
    /// `broadcast` from root i mod n in iteration i, so that no root can run ahead of the other ranks.
    BroadcastRotating,
    /// A round trip between ranks 0 and 1. Half of its time is reported.
    SendRecv,
    /// `all_reduce` of sparse tensors. It is not part of `all`.
    AllReduceSparse,
}

impl PerfOp {
    pub(crate) fn all() -> impl Iterator<Item = PerfOp> {
        OpKind::ALL.iter().map(|op| PerfOp::Table(*op)).chain([PerfOp::BroadcastRotating, PerfOp::SendRecv])
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            PerfOp::Table(op) => op.name(),
            PerfOp::BroadcastRotating => "broadcast_rotating",
            PerfOp::SendRecv => "send_recv",
            PerfOp::AllReduceSparse => "all_reduce_sparse",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<PerfOp> {
        PerfOp::all().chain([PerfOp::AllReduceSparse]).find(|op| op.name() == name)
    }

    /// Returns the op of the table that does the work.
    pub(crate) fn kind(self) -> OpKind {
        match self {
            PerfOp::Table(op) => op,
            PerfOp::BroadcastRotating => OpKind::Broadcast,
            PerfOp::SendRecv => OpKind::Send,
            PerfOp::AllReduceSparse => OpKind::AllReduce,
        }
    }

    /// Whether the op has no buffers and therefore no sizes.
    pub(crate) fn is_bare(self) -> bool {
        self.kind().row().shape == Shape::Nothing
    }

    /// Returns the factor between the algorithm bandwidth and the bus bandwidth, as in nccl-tests. The bus bandwidth is
    /// comparable to the bandwidth of the hardware.
    pub(crate) fn bus_factor(self, ranks: u32) -> f64 {
        let n = f64::from(ranks);
        match self.kind() {
            OpKind::Barrier | OpKind::MonitoredBarrier => 0.0,
            OpKind::AllReduce | OpKind::AllReduceCoalesced => 2.0 * (n - 1.0) / n,
            OpKind::Broadcast | OpKind::Reduce => 1.0,
            op if op.is_p2p() => 1.0,
            _ => (n - 1.0) / n,
        }
    }
}

/// Returns the algorithms that a tuning table of gloo-like can choose.
#[cfg(feature = "gloo-like")]
pub(crate) fn compared() -> impl Iterator<Item = c10d_gloo_like::Algorithm> {
    c10d_gloo_like::Algorithm::ALL.iter().copied().filter(|algorithm| !algorithm.ops().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_round_trip() {
        let all: Vec<PerfOp> = PerfOp::all().collect();
        assert_eq!(all.len(), OpKind::ALL.len() + 2);
        for op in all {
            assert_eq!(PerfOp::from_name(op.name()), Some(op));
        }
    }

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        for (name, factor) in [
            ("all_reduce", 1.5),
            ("all_gather_into", 0.75),
            ("reduce_scatter_into", 0.75),
            ("all_to_all_single", 0.75),
            ("gather", 0.75),
            ("scatter", 0.75),
            ("broadcast", 1.0),
            ("broadcast_rotating", 1.0),
            ("reduce", 1.0),
            ("send_recv", 1.0),
            ("barrier", 0.0),
        ] {
            assert_eq!(PerfOp::from_name(name).unwrap().bus_factor(4), factor, "{name}");
        }
    }
}
