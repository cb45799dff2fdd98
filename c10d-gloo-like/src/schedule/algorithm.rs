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
    /// TCP between all ranks, on one host. A message costs more of the cores that the ranks share than it costs time.
    Loopback,
    /// TCP between all ranks.
    Tcp,
    /// Several hosts, at least one with several ranks.
    Mixed,
}

impl Fabric {
    /// Every fabric.
    pub const ALL: [Fabric; 4] = [Fabric::Shm, Fabric::Loopback, Fabric::Tcp, Fabric::Mixed];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Fabric::Shm => "shm",
            Fabric::Loopback => "loopback",
            Fabric::Tcp => "tcp",
            Fabric::Mixed => "mixed",
        }
    }

    /// The fabric of this name.
    pub fn from_name(name: &str) -> Option<Fabric> {
        Fabric::ALL.into_iter().find(|f| f.name() == name)
    }

    /// The fabric of connected ranks.
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

/// Whether sums on this type must be rounded once, in rank order, at one place, so that they do not depend on the
/// algorithm: 16-bit floats, where partial sums would lose too much, and factors, which must be applied once.
pub(crate) fn exact(dtype: DType, op: ReduceOp) -> bool {
    matches!(dtype, DType::F16 | DType::BF16) || matches!(op, ReduceOp::PreMulSum(_))
}

/// An algorithm. For ops without a plan of its own it uses the direct plan; it does not apply to them.
///
/// Ops whose counts may differ between ranks are always direct, so that each pair can check its own count.
pub(crate) trait Schedule {
    /// The name in tables.
    const NAME: &'static str;
    /// Whether every element is reduced on one rank, in rank order.
    const RANK_ORDER: bool;

    /// The ops for which it has its own plans, by the names that the table of choices knows.
    const OPS: &'static [OpKind];

    /// In place, in the output.
    fn all_reduce(me: Member, hosts: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
        let _ = hosts;
        direct::all_reduce(me, bytes, elem, plan);
    }

    /// The input of every rank is left as it is; only the root has an output.
    fn reduce(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        let _ = elem;
        direct::reduce(me, root, bytes, plan);
    }

    /// In place, in the output.
    fn broadcast(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        let _ = elem;
        direct::broadcast(me, root, bytes, plan);
    }

    /// The input has all blocks, the output only this rank's.
    fn reduce_scatter(me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        let _ = hosts;
        direct::reduce_scatter(me, blocks, plan);
    }

    /// The input has this rank's block, the output all.
    fn all_gather(me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        let _ = hosts;
        direct::all_gather(me, blocks, plan);
    }

    /// It moves no data.
    fn barrier(me: Member, plan: &mut Plan) {
        direct::barrier(me, plan);
    }
}

/// Every rank sends to every other directly. It is used for all calls that no other algorithm takes.
pub(crate) struct Direct;

impl Schedule for Direct {
    const NAME: &'static str = "direct";
    const RANK_ORDER: bool = true;

    const OPS: &'static [OpKind] = &TUNED;
}
