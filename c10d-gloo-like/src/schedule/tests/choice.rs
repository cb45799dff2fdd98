//! The choice of an algorithm.

use c10d_core::OpKind;

use super::super::{Algorithm, Fabric, Selection, TUNED, Table, tuned};

/// The hash of the built-in table's choices; see `the_built_in_choice_has_not_changed`.
const GRID: u64 = 0x0b2a_e1a2_f211_410f;

fn choose(op: OpKind, world: u32, bytes: usize, fabric: Fabric, exact: bool) -> Algorithm {
    Selection::new(&Table::builtin(), world, fabric).choose(op, bytes, exact)
}

#[test]
fn exact_ops_reduce_in_rank_order_and_uneven_ops_are_direct() {
    for world in 1..=64 {
        for fabric in Fabric::ALL {
            let selection = Selection::new(&Table::builtin(), world, fabric);
            for op in OpKind::ALL {
                for bytes in (0..28).map(|k| 1 << k) {
                    let a = selection.choose(*op, bytes, true);
                    assert!(!op.reduces() || a.reduces_in_rank_order(), "{op} {a:?}");
                    let a = selection.choose(*op, bytes, false);
                    assert!(!op.is_uneven() || matches!(a, Algorithm::Local | Algorithm::Direct), "{op} {a:?}");
                    assert_eq!(world == 1, a == Algorithm::Local);
                }
            }
        }
    }
}

#[test]
fn every_algorithm_is_chosen_for_some_call() {
    use Algorithm::*;
    let all_reduce = |w, b, f| choose(OpKind::AllReduce, w, b, f, false);
    assert_eq!(all_reduce(2, 8, Fabric::Shm), OneShot);
    assert_eq!(all_reduce(4, 1 << 20, Fabric::Tcp), Direct);
    assert_eq!(all_reduce(32, 1 << 18, Fabric::Tcp), HalvingDoubling);
    assert_eq!(all_reduce(64, 1 << 24, Fabric::Tcp), DoubleTree);
    assert_eq!(all_reduce(12, 8, Fabric::Mixed), Hierarchical);
    assert_eq!(all_reduce(16, 1 << 20, Fabric::Mixed), TwoLevel);
    assert_eq!(all_reduce(3, 8, Fabric::Loopback), Tree);
    assert_eq!(all_reduce(4, 8, Fabric::Loopback), Recursive);
    assert_eq!(choose(OpKind::ReduceScatterInto, 16, 1 << 24, Fabric::Tcp, false), Ring);
    assert_eq!(choose(OpKind::Broadcast, 9, 1 << 20, Fabric::Shm, false), ScatterGather);
    assert_eq!(choose(OpKind::AllGatherInto, 33, 33, Fabric::Shm, false), Bruck);
}

/// A rule applies up to its limit, inclusive, and not beyond it. For ops with blocks, the limit counts the bytes of one
/// block.
#[test]
fn the_limit_of_a_rule_is_inclusive() {
    let limits = |op| {
        let at = |more: usize| choose(op, 9, 9 * ((32 << 10) + more), Fabric::Loopback, false);
        (at(0), at(1))
    };
    assert_eq!(limits(OpKind::AllGatherInto), (Algorithm::Bruck, Algorithm::Ring));
    let all_reduce = |bytes| choose(OpKind::AllReduceCoalesced, 2, bytes, Fabric::Shm, true);
    assert_eq!((all_reduce(8 << 10), all_reduce((8 << 10) + 1)), (Algorithm::OneShot, Algorithm::Direct));
}

#[test]
fn a_preferred_algorithm_is_taken_wherever_it_has_plans() {
    for algorithm in Algorithm::ALL {
        let table = Table::builtin().preferring(*algorithm);
        let selection = Selection::new(&table, 5, Fabric::Loopback);
        for op in OpKind::ALL {
            let has =
                tuned(*op).is_some_and(|row| algorithm.ops().contains(&TUNED[row]) && algorithm.serves(TUNED[row], 5));
            let expected = if has { *algorithm } else { choose(*op, 5, 1 << 20, Fabric::Loopback, false) };
            assert_eq!(selection.choose(*op, 1 << 20, false), expected, "{op}");
        }
    }
}

#[test]
fn a_rule_does_not_fit_worlds_that_its_algorithm_does_not_serve() {
    use Algorithm::{Direct, Recursive};
    let reduce_scatter = |world| choose(OpKind::ReduceScatterIntoCoalesced, world, 64, Fabric::Loopback, false);
    assert_eq!([3, 4, 5, 8].map(reduce_scatter), [Direct, Recursive, Direct, Recursive]);
    assert_eq!(choose(OpKind::Broadcast, 5, 64, Fabric::Loopback, false), Recursive);
    assert_eq!(choose(OpKind::ReduceScatterInto, 4, 64, Fabric::Loopback, true), Direct, "sums are rounded once");
}

/// This hashes the choices for all combinations of op, world size, bytes (around every power of two), fabric, and
/// whether sums must be rounded once. Ranks of two builds must choose the same algorithm, so a choice must only change
/// on purpose.
#[test]
fn the_built_in_choice_has_not_changed() {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for world in (1..=70).chain([128, 1000]) {
        for fabric in Fabric::ALL {
            let selection = Selection::new(&Table::builtin(), world, fabric);
            for op in OpKind::ALL.iter().filter(|op| !op.is_p2p()) {
                for bytes in (0..28).flat_map(|k| [(1usize << k) - 1, 1 << k, (1 << k) + 1]) {
                    for exact in [false, true] {
                        for byte in selection.choose(*op, bytes, exact).name().bytes() {
                            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                        }
                    }
                }
            }
        }
    }
    assert_eq!(hash, GRID, "if the choice is meant to change, this is its new number: {hash:#x}");
}
