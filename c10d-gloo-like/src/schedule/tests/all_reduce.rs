//! The plans of `all_reduce`.

use super::super::{direct, halving_doubling, hierarchical, one_shot, recursive, ring, tree, two_level};
use super::*;
use crate::plan::Action;

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

/// Returns the bytes that an all_reduce by blocks sends in two passes: all bytes except a block of length `first`, and
/// then all bytes except a block of length `second`.
fn twice_around(bytes: usize, first: usize, second: usize) -> usize {
    2 * bytes - first - second
}

#[test]
fn all_reduce_direct() {
    for world in WORLDS {
        for bytes in sizes(world) {
            let blocks = Blocks::split(bytes, world, ELEM);
            let sent = |r| bytes - blocks.len(r) + (world as usize - 1) * blocks.len(r);
            // The algorithm takes two rounds even if all blocks but one are empty.
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
fn all_reduce_recursive() {
    for world in WORLDS.filter(|world| world.is_power_of_two() && *world > 1) {
        for bytes in sizes(world) {
            let sent = |_| world.ilog2() as usize * bytes;
            let promise = Promise { rounds: world.ilog2(), sent: &sent, once: world == 2 };
            check_all_reduce(world, bytes, &promise, &|me, p| recursive::all_reduce(me, bytes, p));
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
        // With equal blocks, the number of bytes is the one given in textbooks.
        let bytes = n as usize * ELEM;
        let plan = planned(|p| halving_doubling::all_reduce(Member { world, rank: world - 1 }, bytes, ELEM, p));
        let sends = plan.steps.iter().filter(|s| matches!(s.action, Action::Send { .. }));
        let sum = sends.map(|s| s.action.len()).sum::<usize>();
        let aside = extra > 0 && 2 * extra == world;
        assert_eq!(sum, if aside { bytes } else { 2 * bytes * (n as usize - 1) / n as usize });
    }
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
    // Four hosts of four ranks: a rank sends as many bytes to other hosts as in a halving-doubling all-reduce of a
    // quarter of the bytes.
    let hosts = Hosts::new(&(0..16).map(|r| r / 4).collect::<Vec<_>>());
    let bytes = 64 * ELEM;
    let plan = planned(|p| two_level::all_reduce(Member { world: 16, rank: 5 }, &hosts, bytes, ELEM, p));
    let outside = plan.steps.iter().filter_map(|s| match s.action {
        Action::Send { peer, from, .. } if peer / 4 != 1 => Some(from.len),
        _ => None,
    });
    assert_eq!(outside.sum::<usize>(), 2 * bytes / 4 * 3 / 4);
}
