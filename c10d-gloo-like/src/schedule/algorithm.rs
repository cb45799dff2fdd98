//! What an algorithm says of itself: its name, where it applies, and its plans.
//!
//! The choice is fed only with what all ranks know, so that all choose alike.

use c10d_core::{DType, OpKind, ReduceOp};

use super::{Blocks, Member, direct};
use crate::mesh::Topology;
use crate::plan::Plan;

/// Up to this world, everybody to everybody costs little, and its few rounds pay.
const SMALL_WORLD: u32 = 8;

/// What connects the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fabric {
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

/// A call for which an algorithm is to be chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) op: OpKind,
    pub(crate) world: u32,
    /// Of the whole vector (`broadcast`, `reduce`, `all_reduce`), of all blocks together (`all_gather`,
    /// `reduce_scatter`); elsewhere unused.
    pub(crate) bytes: usize,
    pub(crate) fabric: Fabric,
    pub(crate) exact: bool,
}

impl Choice {
    /// One host, shared memory.
    #[inline]
    pub(crate) fn shm(&self) -> bool {
        self.fabric == Fabric::Shm
    }

    /// A world in which everybody to everybody costs little.
    #[inline]
    pub(crate) fn small_world(&self) -> bool {
        self.world <= SMALL_WORLD
    }

    /// Few messages matter more than few rounds.
    #[inline]
    pub(crate) fn costly(&self) -> bool {
        !self.small_world() || (self.fabric == Fabric::Loopback && self.world > 2)
    }

    /// A reduction for all.
    #[inline]
    pub(crate) fn is_all_reduce(&self) -> bool {
        matches!(self.op, OpKind::AllReduce | OpKind::AllReduceCoalesced)
    }

    /// A gathering of equal blocks.
    #[inline]
    pub(crate) fn is_even_all_gather(&self) -> bool {
        matches!(self.op, OpKind::AllGatherInto | OpKind::AllGatherIntoCoalesced)
    }
}

/// An algorithm. Ops for which it has no plan of its own are done directly; it applies to none of them.
///
/// Ops whose counts may differ between ranks are always direct: there each pair can check its own count.
pub(crate) trait Schedule {
    /// The name in tables.
    const NAME: &'static str;
    /// Whether every element is reduced once, in rank order, at one place.
    const RANK_ORDER: bool;

    /// Whether it is right for this call, if none that the list has before it is.
    fn applies(choice: &Choice) -> bool;

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

    fn applies(_: &Choice) -> bool {
        true
    }
}
