//! The interface of an algorithm: its name, the ops for which it has plans, and the plans.

use c10d_core::{DType, OpKind, ReduceOp};

use super::tuned::TUNED;
use super::{Blocks, Hosts, Member, direct};
use crate::mesh::Topology;
use crate::plan::Plan;

/// The kind of connections between the ranks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fabric {
    /// One host, shared memory.
    Shm,
    /// One host, where at least one pair of ranks does not share memory. (Usually every pair uses TCP.) The ranks share
    /// the host's cores, so the processor time of a message matters more than its latency.
    Loopback,
    /// Several hosts. Each has one rank, or at least two ranks of one host do not share memory. (Usually every pair
    /// uses TCP.)
    Tcp,
    /// Several hosts, at least one of them with several ranks. The ranks of each host share memory.
    Mixed,
}

impl Fabric {
    /// Every fabric.
    pub const ALL: [Fabric; 4] = [Fabric::Shm, Fabric::Loopback, Fabric::Tcp, Fabric::Mixed];

    /// Returns the name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Fabric::Shm => "shm",
            Fabric::Loopback => "loopback",
            Fabric::Tcp => "tcp",
            Fabric::Mixed => "mixed",
        }
    }

    /// Returns the fabric of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Fabric> {
        Fabric::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Returns the fabric of connected ranks.
    pub(crate) fn of(topology: &Topology) -> Fabric {
        if topology.is_shared() {
            Fabric::Shm
        } else if topology.hosts_share_memory() && (topology.host_count() as usize) < topology.hosts.len() {
            Fabric::Mixed
        } else if topology.host_count() == 1 {
            Fabric::Loopback
        } else {
            Fabric::Tcp
        }
    }
}

/// Whether every element must be reduced in one step, in rank order, and rounded once. Rounded partial sums of 16-bit
/// floats would lose too much precision. The factors of a pre-multiplied sum must be applied exactly once.
pub(crate) fn exact(dtype: DType, op: ReduceOp) -> bool {
    matches!(dtype, DType::F16 | DType::BF16) || matches!(op, ReduceOp::PreMulSum(_))
}

/// An algorithm. Its methods append steps to plans. The default methods append the steps of the direct algorithm; an
/// algorithm keeps these defaults for the ops for which it has no plan of its own.
///
/// Ops whose counts may differ between ranks are always direct, so that each pair can check its own count.
pub(crate) trait Schedule {
    /// The name in tables.
    const NAME: &'static str;
    /// Whether a rank that reduces an element reduces the values of all ranks in one step, in rank order.
    const RANK_ORDER: bool;

    /// The ops of [`TUNED`] for which the algorithm has its own plans.
    const OPS: &'static [OpKind];

    /// Whether the algorithm has a plan of its own for `op`, which is in [`Schedule::OPS`], in a world of this size.
    fn serves(op: OpKind, world: u32) -> bool {
        let _ = (op, world);
        true
    }

    /// All-reduce. The plan uses only the output, which holds this rank's input at the start.
    fn all_reduce(me: Member, hosts: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
        let _ = hosts;
        direct::all_reduce(me, bytes, elem, plan);
    }

    /// Reduce. Only the root has an output, which may be the same memory as its input. The input of every other rank
    /// stays unchanged.
    fn reduce(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        let _ = elem;
        direct::reduce(me, root, bytes, plan);
    }

    /// Broadcast. The plan uses only the output, which holds the data at the root at the start.
    fn broadcast(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        let _ = elem;
        direct::broadcast(me, root, bytes, plan);
    }

    /// Reduce-scatter. The input has all blocks; the output has only this rank's block.
    fn reduce_scatter(me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        let _ = hosts;
        direct::reduce_scatter(me, blocks, plan);
    }

    /// All-gather. The input has this rank's block; the output has all blocks.
    fn all_gather(me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        let _ = hosts;
        direct::all_gather(me, blocks, plan);
    }

    /// Barrier. The messages are empty.
    fn barrier(me: Member, plan: &mut Plan) {
        direct::barrier(me, plan);
    }
}

/// Every rank sends each block of its data directly to the rank that needs it.
pub(crate) struct Direct;

impl Schedule for Direct {
    const NAME: &'static str = "direct";
    const RANK_ORDER: bool = true;

    const OPS: &'static [OpKind] = &TUNED;
}
