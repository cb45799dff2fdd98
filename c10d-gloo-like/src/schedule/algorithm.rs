//! What an algorithm says of itself: its name, the ops that it has plans for, and the plans.

use c10d_core::{DType, OpKind, ReduceOp};

use super::tuned::TUNED;
use super::{Blocks, Member, direct};
use crate::mesh::Topology;
use crate::plan::Plan;

/// What connects the ranks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fabric {
    /// One host, shared memory.
    Shm,
    /// TCP between all, on one host: a message costs the cores that the ranks share more than it costs time.
    Loopback,
    /// TCP between all.
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

    /// What the connected ranks have.
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

/// An algorithm. Ops for which it has no plan of its own are done directly; it applies to none of them.
///
/// Ops whose counts may differ between ranks are always direct: there each pair can check its own count.
pub(crate) trait Schedule {
    /// The name in tables.
    const NAME: &'static str;
    /// Whether every element is reduced once, in rank order, at one place.
    const RANK_ORDER: bool;

    /// The ops for which it has plans of its own, by the names that the table of choices knows.
    const OPS: &'static [OpKind];

    /// `hosts[p]` is rank `p`'s host.
    fn all_reduce(me: Member, hosts: &[u32], bytes: usize, elem: usize, plan: &mut Plan) {
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

    /// The input has all blocks, the output the own one.
    fn reduce_scatter(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
        direct::reduce_scatter(me, blocks, plan);
    }

    /// The input has the own block, the output all.
    fn all_gather(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
        direct::all_gather(me, blocks, plan);
    }

    /// Nothing but the meeting.
    fn barrier(me: Member, plan: &mut Plan) {
        direct::barrier(me, plan);
    }
}

/// Everybody to everybody; what is left for all other calls.
pub(crate) struct Direct;

impl Schedule for Direct {
    const NAME: &'static str = "direct";
    const RANK_ORDER: bool = true;

    const OPS: &'static [OpKind] = &TUNED;
}
