//! Checks every algorithm in worlds of 1 to 33 ranks with the simulator: results, order, rounds and bytes.

mod all_reduce;
mod barrier;
mod blocks;
mod choice;
mod double_tree;
mod rooted;

use super::member::doublings;
use super::simulate::{Random, Value, World};
use super::{Blocks, Hosts, Member};
use crate::plan::Plan;

const WORLDS: std::ops::RangeInclusive<u32> = 1..=33;
/// The size of an element in bytes.
const ELEM: usize = 2;

/// The sizes in bytes with which a world is tested.
fn sizes(world: u32) -> [usize; 5] {
    let w = world as usize;
    [0, 1, w - 1, w, 2 * w + 3].map(|n| n * ELEM)
}

/// Returns the seeds for one size: ten in worlds of up to nine ranks, and one in larger worlds. Each seed gives one
/// order of events.
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

/// Checks that every byte of `got` is the reduction of the bytes of all ranks at its position. With `once`, it must
/// have been reduced in one step and in rank order.
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

/// The expected properties of one run: the rounds, the bytes that each rank sends, and whether each byte is reduced in
/// one step and in rank order (`once`).
struct Promise<'a> {
    rounds: u32,
    sent: &'a dyn Fn(u32) -> usize,
    once: bool,
}

/// Checks the rounds and the sent bytes. Then runs the plans once for each seed, and passes each result to `done`.
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

/// The number of children of a rank in the binomial tree.
fn children(world: u32, v: u32) -> usize {
    let span = if v == 0 { doublings(world) } else { v.trailing_zeros() };
    (0..span).filter(|k| v + (1 << k) < world).count()
}

/// Returns divisions of a world into hosts: with 1, 2, 3, 4 or all ranks on each host (perhaps fewer on the last host),
/// and with the ranks of each host scattered.
fn with_hosts(world: u32) -> Vec<Hosts> {
    let hosts = |of: &dyn Fn(u32) -> u32| Hosts::new(&(0..world).map(of).collect::<Vec<_>>());
    vec![hosts(&|r| r), hosts(&|r| r / 2), hosts(&|r| r / 3), hosts(&|r| r / 4), hosts(&|_| 0), hosts(&|r| r * 7 % 3)]
}

fn roots(world: u32) -> impl Iterator<Item = u32> {
    let mut roots = vec![0, world / 2, world - 1];
    roots.dedup();
    roots.into_iter()
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
