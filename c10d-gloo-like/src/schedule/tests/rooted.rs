//! The plans of ops that have a root.

use super::super::{direct, recursive, ring, scatter_gather, tree};
use super::*;

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

            let later = |v: u32| (0..doublings(world)).filter(|k| 1 << k > v && v + (1 << k) < world).count();
            let sent = |r| later(v(r)) * bytes;
            let promise = Promise { rounds: world.ilog2(), sent: &sent, once: false };
            check_broadcast(world, root, bytes, &promise, &|me, p| recursive::broadcast(me, root, bytes, p));

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
