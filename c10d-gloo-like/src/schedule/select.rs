//! Which algorithm for which op. Pure, and fed only with what all ranks know, so that all choose alike.

use c10d_core::{DType, OpKind, ReduceOp};

use crate::mesh::Topology;

/// How an op is done. The name is what `perf` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    Local,
    OneShot,
    Direct,
    ScatterGather,
    Ring,
    HalvingDoubling,
    Tree,
    Bruck,
    Hierarchical,
}

impl Algorithm {
    /// The name in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Algorithm::Local => "local",
            Algorithm::OneShot => "one-shot",
            Algorithm::Direct => "direct",
            Algorithm::ScatterGather => "scatter-gather",
            Algorithm::Ring => "ring",
            Algorithm::HalvingDoubling => "halving-doubling",
            Algorithm::Tree => "tree",
            Algorithm::Bruck => "bruck",
            Algorithm::Hierarchical => "hierarchical",
        }
    }
}

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

/// Up to this world, everybody to everybody costs little, and its few rounds pay.
const SMALL_WORLD: u32 = 8;
/// Bytes that a rank sends in one-shot before the second round of `direct` is cheaper than the repeated bytes.
const ONE_SHOT_SHM: usize = 8 << 10;
const ONE_SHOT_TCP: usize = 64 << 10;
/// In large worlds, up to this many bytes few messages matter more than few bytes.
const TREE_SHM: usize = 16 << 10;
const TREE_TCP: usize = 8 << 10;
/// The same on one host over TCP, from three ranks on.
const TREE_LOOPBACK: usize = 64 << 10;
/// In large worlds over TCP, from this many bytes on few bytes and two neighbours matter more than few rounds.
const RING_TCP: usize = 1 << 20;
/// From this many bytes on, the work of a root is shared out.
const SHARE_ROOT: usize = 128 << 10;
/// From this many bytes on, the leaders of hosts speak for their hosts.
const HIERARCHICAL: usize = 4 << 10;
/// Blocks up to this size are gathered in doubling rounds in large worlds.
const BRUCK: usize = 32 << 10;
/// The same in small worlds on one host over TCP.
const BRUCK_LOOPBACK: usize = 4 << 10;

/// Whether sums on this type must be rounded once, in rank order, at one place, so that they do not depend on the
/// algorithm: 16-bit floats, where partial sums would lose too much, and factors, which must be applied once.
pub(crate) fn exact(dtype: DType, op: ReduceOp) -> bool {
    matches!(dtype, DType::F16 | DType::BF16) || matches!(op, ReduceOp::PreMulSum(_))
}

/// The algorithm for an op. `bytes`: of the whole vector (`broadcast`, `reduce`, `all_reduce`), of all blocks
/// together (`all_gather`, `reduce_scatter`); elsewhere unused.
///
/// Ops whose counts may differ between ranks are always direct: there each pair can check its own count.
pub(crate) fn select(op: OpKind, world: u32, bytes: usize, fabric: Fabric, exact: bool) -> Algorithm {
    use OpKind::*;
    let shm = fabric == Fabric::Shm;
    let small_world = world <= SMALL_WORLD;
    if world == 1 {
        return Algorithm::Local;
    }
    if op.is_uneven() {
        return Algorithm::Direct;
    }
    let one_shot = if shm { ONE_SHOT_SHM } else { ONE_SHOT_TCP };
    // Few messages matter more than few rounds.
    let costly = !small_world || (fabric == Fabric::Loopback && world > 2);
    let tree = match fabric {
        Fabric::Shm => TREE_SHM,
        Fabric::Loopback => TREE_LOOPBACK,
        Fabric::Tcp | Fabric::Mixed => TREE_TCP,
    };
    match op {
        AllReduce | AllReduceCoalesced => {
            let repeated = bytes.saturating_mul(world as usize - 1);
            if repeated <= one_shot && (!costly || exact) {
                Algorithm::OneShot
            } else if exact {
                Algorithm::Direct
            } else if fabric == Fabric::Mixed && bytes >= HIERARCHICAL {
                Algorithm::Hierarchical
            } else if costly && bytes <= tree {
                Algorithm::Tree
            } else if small_world || shm {
                Algorithm::Direct
            } else if bytes < RING_TCP {
                Algorithm::HalvingDoubling
            } else {
                Algorithm::Ring
            }
        }
        Reduce if world > 2 && bytes >= SHARE_ROOT => Algorithm::ScatterGather,
        Reduce if !exact && !small_world => Algorithm::Tree,
        Broadcast if world == 2 => Algorithm::Direct,
        Broadcast if bytes >= SHARE_ROOT && small_world => Algorithm::ScatterGather,
        Broadcast if bytes >= RING_TCP => Algorithm::Ring,
        Broadcast if !small_world => Algorithm::Tree,
        ReduceScatterInto | ReduceScatterIntoCoalesced if !exact && !small_world && !shm && bytes >= RING_TCP => {
            Algorithm::Ring
        }
        AllGatherInto | AllGatherIntoCoalesced if costly => {
            if bytes / world as usize <= if small_world { BRUCK_LOOPBACK } else { BRUCK } {
                Algorithm::Bruck
            } else if shm || small_world {
                Algorithm::Direct
            } else {
                Algorithm::Ring
            }
        }
        Barrier | MonitoredBarrier if costly => Algorithm::Bruck,
        _ => Algorithm::Direct,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_and_uneven_ops_are_direct() {
        for op in OpKind::ALL {
            for world in 1..=64 {
                for bytes in (0..28).map(|k| 1 << k) {
                    for fabric in [Fabric::Shm, Fabric::Loopback, Fabric::Tcp, Fabric::Mixed] {
                        let direct = |a| matches!(a, Algorithm::Local | Algorithm::OneShot | Algorithm::Direct);
                        let a = select(*op, world, bytes, fabric, true);
                        let once = a == Algorithm::ScatterGather && *op == OpKind::Reduce;
                        assert!(!op.reduces() || direct(a) || once, "{op} {a:?}");
                        let a = select(*op, world, bytes, fabric, false);
                        assert!(!op.is_uneven() || direct(a), "{op} {a:?}");
                        assert_eq!(world == 1, a == Algorithm::Local);
                    }
                }
            }
        }
    }

    #[test]
    fn every_algorithm_has_its_place() {
        use Algorithm::*;
        let all_reduce = |w, b, t| select(OpKind::AllReduce, w, b, t, false);
        assert_eq!(all_reduce(2, 8, Fabric::Shm), OneShot);
        assert_eq!(all_reduce(4, 1 << 20, Fabric::Tcp), Direct);
        assert_eq!(all_reduce(16, 1 << 10, Fabric::Tcp), Tree);
        assert_eq!(all_reduce(16, 1 << 18, Fabric::Tcp), HalvingDoubling);
        assert_eq!(all_reduce(16, 1 << 24, Fabric::Tcp), Ring);
        assert_eq!(all_reduce(4, 1 << 20, Fabric::Mixed), Hierarchical);
        assert_eq!(all_reduce(2, 8, Fabric::Loopback), OneShot);
        assert_eq!(all_reduce(4, 8, Fabric::Loopback), Tree);
        assert_eq!(select(OpKind::Broadcast, 4, 1 << 20, Fabric::Shm, false), ScatterGather);
        assert_eq!(select(OpKind::AllGatherInto, 33, 33, Fabric::Shm, false), Bruck);
    }
}
