//! Checks every algorithm in worlds of 1 to 33 ranks with the simulator: results, order, rounds and bytes.

use super::member::doublings;
use super::simulate::{Random, Value, World};
use super::{
    Algorithm, Blocks, Fabric, Hosts, Member, Selection, TUNED, Table, bruck, direct, double_tree, halving_doubling,
    hierarchical, one_shot, ring, scatter_gather, tree, two_level,
};
use crate::plan::Plan;
use c10d_core::OpKind;

const WORLDS: std::ops::RangeInclusive<u32> = 1..=33;
const ELEM: usize = 2;

/// The numbers of elements for a world, in bytes.
fn sizes(world: u32) -> [usize; 5] {
    let w = world as usize;
    [0, 1, w - 1, w, 2 * w + 3].map(|n| n * ELEM)
}

/// Many orders of events in small worlds, one per size in large ones.
fn seeds(world: u32, bytes: usize) -> impl Iterator<Item = u64> {
    let first = u64::from(world) + (bytes / ELEM) as u64;
    first..first + if world <= 9 { 10 } else { 1 }
}

fn planned(fill: impl Fn(&mut Plan)) -> Plan {
    let mut plan = Plan::default();
    fill(&mut plan);
    plan
}

fn vector(rank: u32, len: usize) -> Vec<Option<Value>> {
    (0..len).map(|i| Some(Value::of(rank, i))).collect()
}

fn nothing(len: usize) -> Vec<Option<Value>> {
    vec![None; len]
}

/// Checks that every byte of `got` is a reduction over all ranks of the byte at its place; with `once`, in one step and
/// in rank order.
fn assert_reduced(world: u32, got: &[Option<Value>], first: usize, once: bool) {
    let all: Vec<u8> = (0..world as u8).collect();
    for (i, value) in got.iter().enumerate() {
        let value = value.as_ref().expect("a byte of the result is missing");
        assert_eq!(value.pos, first + i);
        let mut ranks = value.ranks.clone();
        if once {
            assert_eq!(value.reductions, 1, "reduced more than once");
        } else {
            ranks.sort_unstable();
        }
        assert_eq!(ranks, all);
    }
}

/// The expected costs of one run of an algorithm: rounds, and bytes sent by each rank.
struct Promise<'a> {
    rounds: u32,
    sent: &'a dyn Fn(u32) -> usize,
    once: bool,
}

fn check(world: u32, bytes: usize, promise: &Promise<'_>, make: &dyn Fn() -> World, done: &dyn Fn(&World)) {
    let fresh = make();
    if bytes > 0 && world > 1 {
        assert_eq!(fresh.rounds(), promise.rounds, "rounds, world {world}, {bytes} bytes");
    }
    for r in 0..world {
        assert_eq!(fresh.sent(r), (promise.sent)(r), "bytes sent by {r} of {world}, {bytes} bytes");
    }
    for seed in seeds(world, bytes) {
        let mut w = make();
        w.run(seed);
        done(&w);
    }
}

fn check_all_reduce(world: u32, bytes: usize, promise: &Promise<'_>, fill: &dyn Fn(Member, &mut Plan)) {
    let plan = |rank| planned(|p| fill(Member { world, rank }, p));
    let make = || World::new(world, ELEM, plan, |_| vec![], |r| vector(r, bytes));
    check(world, bytes, promise, &make, &|w| {
        for r in 0..world {
            assert_reduced(world, w.output(r), 0, promise.once);
            // The order of reduction is the same on all ranks, so the bits are the same.
            assert_eq!(w.output(r), w.output(0));
        }
    });
}

#[test]
fn all_reduce_one_shot() {
    for world in WORLDS {
        for bytes in sizes(world) {
            let sent = |_| (world as usize - 1) * bytes;
            let promise = Promise { rounds: 1, sent: &sent, once: true };
            check_all_reduce(world, bytes, &promise, &|me, p| one_shot::all_reduce(me, bytes, p));
        }
    }
}

/// The bytes that the block-wise all_reduces send: all but block `skipped` first, then all but a second one.
fn twice_around(bytes: usize, first: usize, second: usize) -> usize {
    2 * bytes - first - second
}

#[test]
fn all_reduce_direct() {
    for world in WORLDS {
        for bytes in sizes(world) {
            let blocks = Blocks::split(bytes, world, ELEM);
            let sent = |r| bytes - blocks.len(r) + (world as usize - 1) * blocks.len(r);
            // A block that is empty on all ranks but one still takes two rounds.
            let promise = Promise { rounds: 2, sent: &sent, once: true };
            check_all_reduce(world, bytes, &promise, &|me, p| direct::all_reduce(me, bytes, ELEM, p));
        }
    }
}

#[test]
fn all_reduce_ring() {
    for world in WORLDS {
        for bytes in sizes(world) {
            let blocks = Blocks::split(bytes, world, ELEM);
            let sent =
                |r: u32| if world == 1 { 0 } else { twice_around(bytes, blocks.len(r), blocks.len((r + 1) % world)) };
            let promise = Promise { rounds: 2 * (world - 1), sent: &sent, once: false };
            check_all_reduce(world, bytes, &promise, &|me, p| ring::all_reduce(me, bytes, ELEM, p));
        }
    }
}

#[test]
fn all_reduce_halving_doubling() {
    for world in WORLDS {
        let n = 1 << world.ilog2();
        let extra = world - n;
        for bytes in sizes(world) {
            let blocks = Blocks::split(bytes, n, ELEM);
            let sent = |r: u32| {
                let paired = r < 2 * extra;
                if paired && r % 2 == 1 {
                    return bytes;
                }
                let v = if paired { r / 2 } else { r - extra };
                let gathered = (0..n.ilog2())
                    .map(|k| {
                        let start = v & !((1 << k) - 1);
                        blocks.offset(start + (1 << k)) - blocks.offset(start)
                    })
                    .sum::<usize>();
                bytes - blocks.len(v) + gathered + if paired { bytes } else { 0 }
            };
            let promise = Promise { rounds: 2 * n.ilog2() + if extra > 0 { 2 } else { 0 }, sent: &sent, once: false };
            check_all_reduce(world, bytes, &promise, &|me, p| halving_doubling::all_reduce(me, bytes, ELEM, p));
        }
        // With equal blocks this is the number from textbooks.
        let bytes = n as usize * ELEM;
        let plan = planned(|p| halving_doubling::all_reduce(Member { world, rank: world - 1 }, bytes, ELEM, p));
        let sends = plan.steps.iter().filter(|s| matches!(s.action, crate::plan::Action::Send { .. }));
        let sum = sends.map(|s| s.action.len()).sum::<usize>();
        let aside = extra > 0 && 2 * extra == world;
        assert_eq!(sum, if aside { bytes } else { 2 * bytes * (n as usize - 1) / n as usize });
    }
}

/// The number of children of a rank in the binomial tree.
fn children(world: u32, v: u32) -> usize {
    let span = if v == 0 { doublings(world) } else { v.trailing_zeros() };
    (0..span).filter(|k| v + (1 << k) < world).count()
}

#[test]
fn all_reduce_tree() {
    for world in WORLDS {
        for bytes in sizes(world) {
            let sent = |r: u32| bytes * (children(world, r) + usize::from(r > 0));
            let promise = Promise { rounds: 2 * world.ilog2(), sent: &sent, once: false };
            check_all_reduce(world, bytes, &promise, &|me, p| tree::all_reduce(me, bytes, p));
        }
    }
}

#[test]
fn all_reduce_hierarchical() {
    for world in WORLDS {
        for per_host in [1, 2, 3, world] {
            let hosts = Hosts::new(&(0..world).map(|r| 100 - r / per_host).collect::<Vec<_>>());
            let count = world.div_ceil(per_host);
            for bytes in sizes(world) {
                let blocks = Blocks::split(bytes, count, ELEM);
                let sent = |r: u32| {
                    if !r.is_multiple_of(per_host) {
                        return bytes;
                    }
                    let own = blocks.len(r / per_host);
                    let members = per_host.min(world - r) as usize - 1;
                    bytes - own + own * (count as usize - 1) + members * bytes
                };
                let rounds = if per_host > 1 && world > 1 { 2 } else { 0 } + if count > 1 { 2 } else { 0 };
                let promise = Promise { rounds, sent: &sent, once: false };
                let fill = |me, p: &mut Plan| hierarchical::all_reduce(me, &hosts, bytes, ELEM, p);
                check_all_reduce(world, bytes, &promise, &fill);
            }
        }
        // Hosts may be numbered in any way, and their ranks may be scattered.
        let hosts = Hosts::new(&(0..world).map(|r| r * 7 % 3).collect::<Vec<_>>());
        let plan = |rank| planned(|p| hierarchical::all_reduce(Member { world, rank }, &hosts, 40, ELEM, p));
        let mut w = World::new(world, ELEM, plan, |_| vec![], |r| vector(r, 40));
        w.run(1);
        (0..world).for_each(|r| assert_reduced(world, w.output(r), 0, false));
    }
}

/// Worlds of hosts with this many ranks each, the last one perhaps with fewer; and scattered ranks.
fn with_hosts(world: u32) -> Vec<Hosts> {
    let hosts = |of: &dyn Fn(u32) -> u32| Hosts::new(&(0..world).map(of).collect::<Vec<_>>());
    vec![hosts(&|r| r), hosts(&|r| r / 2), hosts(&|r| r / 3), hosts(&|r| r / 4), hosts(&|_| 0), hosts(&|r| r * 7 % 3)]
}

#[test]
fn all_reduce_two_level() {
    for world in 1..=17 {
        for hosts in with_hosts(world) {
            for bytes in sizes(world).into_iter().skip(2) {
                let plan = |rank| planned(|p| two_level::all_reduce(Member { world, rank }, &hosts, bytes, ELEM, p));
                for seed in seeds(world, bytes).take(1) {
                    let mut w = World::new(world, ELEM, plan, |_| vec![], |r| vector(r, bytes));
                    w.run(seed);
                    for r in 0..world {
                        assert_reduced(world, w.output(r), 0, false);
                        assert_eq!(w.output(r), w.output(0));
                    }
                }
            }
        }
    }
    // Four hosts of four ranks: what a rank sends to other hosts is what halving and doubling a quarter of the bytes takes.
    let hosts = Hosts::new(&(0..16).map(|r| r / 4).collect::<Vec<_>>());
    let bytes = 64 * ELEM;
    let plan = planned(|p| two_level::all_reduce(Member { world: 16, rank: 5 }, &hosts, bytes, ELEM, p));
    let outside = plan.steps.iter().filter_map(|s| match s.action {
        crate::plan::Action::Send { peer, from } if peer / 4 != 1 => Some(from.len),
        _ => None,
    });
    assert_eq!(outside.sum::<usize>(), 2 * bytes / 4 * 3 / 4);
}

#[test]
fn all_gather_two_level() {
    with_blocks(|world, blocks| {
        let bytes = blocks.offset(world);
        let own = |r| (0..blocks.len(r)).map(|i| Some(Value::of(r, i))).collect::<Vec<_>>();
        let all: Vec<_> = (0..world).flat_map(own).collect();
        for hosts in with_hosts(world) {
            let plan = |rank| planned(|p| two_level::all_gather(Member { world, rank }, &hosts, blocks, p));
            let mut w = World::new(world, ELEM, plan, own, |_| nothing(bytes));
            w.run(u64::from(world));
            (0..world).for_each(|r| assert_eq!(w.output(r), all));
        }
    });
}

#[test]
fn double_trees() {
    for world in WORLDS {
        for bytes in sizes(world) {
            // In an all-reduce every rank sends each half up and down: up once, down once for each child.
            let most = |w: &World, most: usize| assert!((0..world).all(|r| w.sent(r) <= most), "{world} {bytes}");
            for seed in seeds(world, bytes).take(4) {
                let plan = |rank| planned(|p| double_tree::all_reduce(Member { world, rank }, bytes, ELEM, p));
                let mut w = World::new(world, ELEM, plan, |_| vec![], |r| vector(r, bytes));
                most(&w, 5 * (bytes / 2 + ELEM));
                w.run(seed);
                for r in 0..world {
                    assert_reduced(world, w.output(r), 0, false);
                    assert_eq!(w.output(r), w.output(0));
                }
                for root in roots(world) {
                    let plan = |rank| planned(|p| double_tree::reduce(Member { world, rank }, root, bytes, ELEM, p));
                    let output = |r| if r == root { nothing(bytes) } else { vec![] };
                    let mut w = World::new(world, ELEM, plan, |r| vector(r, bytes), output);
                    most(&w, bytes);
                    w.run(seed);
                    assert_reduced(world, w.output(root), 0, false);
                    (0..world).for_each(|r| assert_eq!(w.input(r), vector(r, bytes)));

                    let plan = |rank| planned(|p| double_tree::broadcast(Member { world, rank }, root, bytes, ELEM, p));
                    let output = |r| if r == root { vector(r, bytes) } else { nothing(bytes) };
                    let mut w = World::new(world, ELEM, plan, |_| vec![], output);
                    most(&w, 3 * (bytes / 2 + ELEM));
                    w.run(seed);
                    (0..world).for_each(|r| assert_eq!(w.output(r), vector(root, bytes)));
                }
            }
        }
    }
}

fn roots(world: u32) -> impl Iterator<Item = u32> {
    let mut roots = vec![0, world / 2, world - 1];
    roots.dedup();
    roots.into_iter()
}

fn check_reduce(world: u32, root: u32, bytes: usize, promise: &Promise<'_>, fill: &dyn Fn(Member, &mut Plan)) {
    let plan = |rank| planned(|p| fill(Member { world, rank }, p));
    let output = |r| if r == root { nothing(bytes) } else { vec![] };
    let make = || World::new(world, ELEM, plan, |r| vector(r, bytes), output);
    check(world, bytes, promise, &make, &|w| {
        assert_reduced(world, w.output(root), 0, promise.once);
        (0..world).for_each(|r| assert_eq!(w.input(r), vector(r, bytes)));
    });
}

#[test]
fn reduce() {
    for world in WORLDS {
        for (root, bytes) in roots(world).flat_map(|r| sizes(world).map(|b| (r, b))) {
            let sent = |r| if r == root { 0 } else { bytes };
            let promise = Promise { rounds: 1, sent: &sent, once: true };
            check_reduce(world, root, bytes, &promise, &|me, p| direct::reduce(me, root, bytes, p));

            let blocks = Blocks::split(bytes, world, ELEM);
            let shared = |r| if r == root { bytes - blocks.len(r) } else { bytes };
            let promise = Promise { rounds: 2, sent: &shared, once: true };
            let fill = |me, p: &mut Plan| scatter_gather::reduce(me, root, bytes, ELEM, p);
            check_reduce(world, root, bytes, &promise, &fill);

            let promise = Promise { rounds: world.ilog2(), sent: &sent, once: false };
            check_reduce(world, root, bytes, &promise, &|me, p| tree::reduce(me, root, bytes, p));
        }
    }
}

fn check_broadcast(world: u32, root: u32, bytes: usize, promise: &Promise<'_>, fill: &dyn Fn(Member, &mut Plan)) {
    let plan = |rank| planned(|p| fill(Member { world, rank }, p));
    let output = |r| if r == root { vector(r, bytes) } else { nothing(bytes) };
    let make = || World::new(world, ELEM, plan, |_| vec![], output);
    check(world, bytes, promise, &make, &|w| {
        (0..world).for_each(|r| assert_eq!(w.output(r), vector(root, bytes)));
    });
}

#[test]
fn broadcast() {
    for world in WORLDS {
        for (root, bytes) in roots(world).flat_map(|r| sizes(world).map(|b| (r, b))) {
            let w = world as usize;
            let v = |r: u32| (r + world - root) % world;

            let sent = |r| if r == root { (w - 1) * bytes } else { 0 };
            let promise = Promise { rounds: 1, sent: &sent, once: false };
            check_broadcast(world, root, bytes, &promise, &|me, p| direct::broadcast(me, root, bytes, p));

            let parts = Blocks::split(bytes, (world - 1).max(1), ELEM);
            let sent = |r: u32| match r {
                _ if world == 1 => 0,
                r if r == root => bytes,
                r => (w - 2) * parts.len(v(r) - 1),
            };
            let promise = Promise { rounds: if world == 2 { 1 } else { 2 }, sent: &sent, once: false };
            let fill = |me, p: &mut Plan| scatter_gather::broadcast(me, root, bytes, ELEM, p);
            check_broadcast(world, root, bytes, &promise, &fill);

            let sent = |r| bytes * children(world, v(r));
            let promise = Promise { rounds: world.ilog2(), sent: &sent, once: false };
            check_broadcast(world, root, bytes, &promise, &|me, p| tree::broadcast(me, root, bytes, p));

            let sent = |r| if v(r) == world - 1 { 0 } else { bytes };
            let promise = Promise { rounds: world - 1, sent: &sent, once: false };
            check_broadcast(world, root, bytes, &promise, &|me, p| ring::broadcast(me, root, bytes, p));
        }
    }
}

/// The starts of blocks with uneven lengths, some of them 0.
fn uneven(world: u32, seed: u64) -> Vec<usize> {
    let mut random = Random(seed);
    let mut starts = vec![0];
    for _ in 0..world {
        starts.push(starts[starts.len() - 1] + random.below(5) * ELEM);
    }
    starts
}

/// Runs `test` with even blocks and with uneven ones.
fn with_blocks(test: impl Fn(u32, Blocks<'_>)) {
    for world in WORLDS {
        for len in [0, 1, 3] {
            test(world, Blocks::uniform(world, len * ELEM));
        }
        for seed in 0..3 {
            test(world, Blocks::Listed(&uneven(world, seed)));
        }
    }
}

#[test]
fn reduce_scatter() {
    with_blocks(|world, blocks| {
        let bytes = blocks.offset(world);
        let sent = |r| bytes - blocks.len(r);
        let run = |promise: &Promise<'_>, fill: &dyn Fn(Member, &mut Plan)| {
            let plan = |rank| planned(|p| fill(Member { world, rank }, p));
            let make = || World::new(world, ELEM, plan, |r| vector(r, bytes), |r| nothing(blocks.len(r)));
            check(world, bytes, promise, &make, &|w| {
                for r in 0..world {
                    assert_reduced(world, w.output(r), blocks.offset(r), promise.once);
                    assert_eq!(w.input(r), vector(r, bytes));
                }
            });
        };
        let promise = Promise { rounds: 1, sent: &sent, once: true };
        run(&promise, &|me, p| direct::reduce_scatter(me, blocks, p));
        let promise = Promise { rounds: world - 1, sent: &sent, once: false };
        run(&promise, &|me, p| ring::reduce_scatter(me, blocks, p));
    });
}

#[test]
fn all_gather() {
    with_blocks(|world, blocks| {
        let bytes = blocks.offset(world);
        let own = |r| (0..blocks.len(r)).map(|i| Some(Value::of(r, i))).collect::<Vec<_>>();
        let all: Vec<_> = (0..world).flat_map(own).collect();
        let run = |promise: &Promise<'_>, fill: &dyn Fn(Member, &mut Plan)| {
            let plan = |rank| planned(|p| fill(Member { world, rank }, p));
            let make = || World::new(world, ELEM, plan, own, |_| nothing(bytes));
            check(world, bytes, promise, &make, &|w| (0..world).for_each(|r| assert_eq!(w.output(r), all)));
        };
        let sent = |r| (world as usize - 1) * blocks.len(r);
        let promise = Promise { rounds: 1, sent: &sent, once: false };
        run(&promise, &|me, p| direct::all_gather(me, blocks, p));
        let sent = |r: u32| if world == 1 { 0 } else { bytes - blocks.len((r + 1) % world) };
        let promise = Promise { rounds: world - 1, sent: &sent, once: false };
        run(&promise, &|me, p| ring::all_gather(me, blocks, p));
        let sent = |r: u32| {
            let round = |k: u32| {
                let distance = 1 << k;
                (0..distance.min(world - distance)).map(|i| blocks.len((r + i) % world)).sum::<usize>()
            };
            (0..doublings(world)).map(round).sum::<usize>()
        };
        let promise = Promise { rounds: doublings(world), sent: &sent, once: false };
        run(&promise, &|me, p| bruck::all_gather(me, blocks, p));
    });
}

#[test]
fn gather_and_scatter() {
    with_blocks(|world, blocks| {
        let bytes = blocks.offset(world);
        let block = |r: u32, from: u32| {
            let start = if from == r { 0 } else { blocks.offset(r) };
            (0..blocks.len(r)).map(|i| Some(Value::of(from, start + i))).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..world).flat_map(|r| block(r, r)).collect();
        for root in roots(world) {
            let sent = |r| if r == root { 0 } else { blocks.len(r) };
            let promise = Promise { rounds: 1, sent: &sent, once: false };
            let plan = |rank| planned(|p| direct::gather(Member { world, rank }, root, blocks.len(rank), blocks, p));
            let make = || World::new(world, ELEM, plan, |r| block(r, r), |_| nothing(bytes));
            check(world, bytes - blocks.len(root), &promise, &make, &|w| assert_eq!(w.output(root), all));

            let sent = |r| if r == root { bytes - blocks.len(root) } else { 0 };
            let promise = Promise { rounds: 1, sent: &sent, once: false };
            let plan = |rank| planned(|p| direct::scatter(Member { world, rank }, root, blocks.len(rank), blocks, p));
            let make = || World::new(world, ELEM, plan, |r| vector(r, bytes), |r| nothing(blocks.len(r)));
            check(world, bytes - blocks.len(root), &promise, &make, &|w| {
                for r in 0..world {
                    let (start, len) = (blocks.offset(r), blocks.len(r));
                    assert_eq!(w.output(r), &vector(root, bytes)[start..start + len]);
                }
            });
        }
    });
}

#[test]
fn all_to_all() {
    for world in WORLDS {
        // The number of bytes that rank r sends to rank p.
        let len = |r: u32, p: u32| (r * 3 + p * 5) as usize % 4 * ELEM;
        let starts = |f: &dyn Fn(u32) -> usize| {
            let mut starts = vec![0];
            (0..world).for_each(|p| starts.push(starts[p as usize] + f(p)));
            starts
        };
        let input = |r| starts(&|p| len(r, p));
        let output = |r| starts(&|p| len(p, r));
        let total = |s: &[usize]| s[s.len() - 1];
        let plan = |r| {
            let me = Member { world, rank: r };
            planned(|p| direct::all_to_all(me, Blocks::Listed(&input(r)), Blocks::Listed(&output(r)), p))
        };
        let sent = |r| total(&input(r)) - len(r, r);
        let promise = Promise { rounds: 1, sent: &sent, once: false };
        let make = || World::new(world, ELEM, plan, |r| vector(r, total(&input(r))), |r| nothing(total(&output(r))));
        check(world, 1, &promise, &make, &|w| {
            for r in 0..world {
                let piece = |p: u32| (0..len(p, r)).map(move |i| Some(Value::of(p, input(p)[r as usize] + i)));
                assert_eq!(w.output(r), (0..world).flat_map(piece).collect::<Vec<_>>());
            }
        });
    }
}

#[test]
fn barrier() {
    for world in WORLDS {
        let none = |_| 0;
        let plan = |rank| planned(|p| direct::barrier(Member { world, rank }, p));
        let make = || World::new(world, ELEM, plan, |_| vec![], |_| vec![]);
        check(world, 1, &Promise { rounds: 1, sent: &none, once: false }, &make, &|_| ());
        let plan = |rank| planned(|p| bruck::barrier(Member { world, rank }, p));
        let dissemination = || World::new(world, ELEM, plan, |_| vec![], |_| vec![]);
        let promise = Promise { rounds: doublings(world), sent: &none, once: false };
        check(world, 1, &promise, &dissemination, &|_| ());
        assert!(world == 1 || make().all_met() && dissemination().all_met());
    }
}

/// The hash of the choice over the grid; see `the_choice_is_what_it_was`.
const GRID: u64 = 0x8c62_4f99_fe78_4719;

fn choose(op: OpKind, world: u32, bytes: usize, fabric: Fabric, exact: bool) -> Algorithm {
    Selection::new(&Table::builtin(), world, fabric).choose(op, bytes, exact)
}

#[test]
fn exact_and_uneven_ops_are_direct() {
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
fn every_algorithm_has_its_calls() {
    use Algorithm::*;
    let all_reduce = |w, b, f| choose(OpKind::AllReduce, w, b, f, false);
    assert_eq!(all_reduce(2, 8, Fabric::Shm), OneShot);
    assert_eq!(all_reduce(4, 1 << 20, Fabric::Tcp), Direct);
    assert_eq!(all_reduce(32, 1 << 18, Fabric::Tcp), HalvingDoubling);
    assert_eq!(all_reduce(64, 1 << 24, Fabric::Tcp), DoubleTree);
    assert_eq!(all_reduce(16, 8, Fabric::Mixed), Hierarchical);
    assert_eq!(all_reduce(16, 1 << 20, Fabric::Mixed), TwoLevel);
    assert_eq!(all_reduce(4, 8, Fabric::Loopback), Tree);
    assert_eq!(choose(OpKind::ReduceScatterInto, 16, 1 << 24, Fabric::Tcp, false), Ring);
    assert_eq!(choose(OpKind::Broadcast, 4, 1 << 20, Fabric::Shm, false), ScatterGather);
    assert_eq!(choose(OpKind::AllGatherInto, 33, 33, Fabric::Shm, false), Bruck);
}

/// A rule applies at its limit and not beyond; for ops with blocks the limit is for one block.
#[test]
fn limits_are_included() {
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
            let has = super::tuned(*op).is_some_and(|row| algorithm.ops().contains(&TUNED[row]));
            let expected = if has { *algorithm } else { choose(*op, 5, 1 << 20, Fabric::Loopback, false) };
            assert_eq!(selection.choose(*op, 1 << 20, false), expected, "{op}");
        }
    }
}

/// The choice over a grid of ops, worlds, sizes (around every power of two), transports and types, as one number. Ranks
/// of two builds must choose the same algorithm, so a choice must only change on purpose.
#[test]
fn the_choice_is_what_it_was() {
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
