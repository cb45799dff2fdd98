//! The plans of ops with a block for each rank.

use super::super::{bruck, direct, recursive, ring, two_level};
use super::*;

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
        if world.is_power_of_two() && world > 1 {
            let halves = |r: u32| (0..world.ilog2()).map(move |k| ((r >> k) ^ 1) << k);
            let sent = |r| halves(r).zip(0..).map(|(low, k)| blocks.offset(low + (1 << k)) - blocks.offset(low)).sum();
            let promise = Promise { rounds: world.ilog2(), sent: &sent, once: world == 2 };
            run(&promise, &|me, p| recursive::reduce_scatter(me, blocks, p));
        }
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
