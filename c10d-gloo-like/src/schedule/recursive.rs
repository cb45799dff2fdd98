//! Recursive doubling and recursive halving. These algorithms need few rounds and few messages, so they suit small
//! data.
//!
//! In round `k` of a doubling, the set of ranks that share a result doubles: each rank communicates with the rank whose
//! number differs from its own in bit `k`. A halving takes these rounds in reverse order: in each round, a rank sends
//! half of the blocks that it still has.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::member::doublings;
use super::{Blocks, Hosts, Member, direct, tree};
use crate::plan::{After, Plan, Space};

pub(crate) struct Recursive;

impl Schedule for Recursive {
    const NAME: &'static str = "recursive";
    const RANK_ORDER: bool = false;

    const OPS: &[OpKind] = &[OpKind::AllReduce, OpKind::Broadcast, OpKind::ReduceScatterInto];

    fn serves(op: OpKind, world: u32) -> bool {
        op == OpKind::Broadcast || world.is_power_of_two()
    }

    fn all_reduce(me: Member, _: &Hosts, bytes: usize, _: usize, plan: &mut Plan) {
        all_reduce(me, bytes, plan);
    }

    fn broadcast(me: Member, root: u32, bytes: usize, _: usize, plan: &mut Plan) {
        broadcast(me, root, bytes, plan);
    }

    fn reduce_scatter(me: Member, _: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        reduce_scatter(me, blocks, plan);
    }
}

/// In each round, a rank and its partner exchange their partial results. Worlds whose size is not a power of two use a
/// tree.
///
/// Takes `log2(world)` rounds. Each rank sends `bytes` in each round.
pub(crate) fn all_reduce(me: Member, bytes: usize, plan: &mut Plan) {
    if !me.world.is_power_of_two() {
        return tree::all_reduce(me, bytes, plan);
    }
    let all = Space::Output.at(0, bytes);
    let mut after = After::Nothing;
    for mask in (0..doublings(me.world)).map(|k| 1 << k) {
        let partner = me.rank ^ mask;
        let sent = plan.send(partner, all, after);
        after = After::Follow(plan.reduce([partner], all, all, 2 * mask == me.world, After::Trail(sent)));
    }
}

/// Ranks are counted from the root. Rank `v` sends the data to rank `v + 2^k` for each `k` with `2^k > v`.
///
/// Takes at most `floor(log2(world))` rounds, because a rank sends to all its receivers at once. Each rank sends
/// `bytes` to each of its receivers.
pub(crate) fn broadcast(me: Member, root: u32, bytes: usize, plan: &mut Plan) {
    let all = Space::Output.at(0, bytes);
    let v = me.counted_from(root);
    let mut after = After::Nothing;
    let mut first = 0;
    if v > 0 {
        first = v.ilog2() + 1;
        after = After::Follow(plan.recv(me.at(v - (1 << v.ilog2()), root), all));
    }
    for child in (first..doublings(me.world)).map(|k| v + (1 << k)).filter(|child| *child < me.world) {
        plan.send(me.at(child, root), all, after);
    }
}

/// In each round, a rank and its partner divide the blocks that both have, and each of them reduces the blocks of one
/// half. Worlds whose size is not a power of two use the direct algorithm.
///
/// Takes `log2(world)` rounds. Each rank sends all blocks except its own.
pub(crate) fn reduce_scatter(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    if !me.world.is_power_of_two() || me.world == 1 {
        return direct::reduce_scatter(me, blocks, plan);
    }
    let mut after = After::Nothing;
    let (mut low, mut high) = (0, me.world);
    // The first round reads the input. Later rounds read the result of the previous round.
    let mut kept = None;
    while high - low > 1 {
        let middle = low.midpoint(high);
        let (keep, give) = if me.rank < middle { (low..middle, middle..high) } else { (middle..high, low..middle) };
        let partner = me.rank ^ (middle - low);
        let (whole, start) = kept.unwrap_or((blocks.range(Space::Input, low..high), 0));
        let part = |ranks| {
            let block = blocks.range(Space::Input, ranks);
            whole.space.at(whole.offset + block.offset - start, block.len)
        };
        let (from, own) = (part(give), part(keep.clone()));
        plan.send(partner, from, after);
        (low, high) = (keep.start, keep.end);
        let last = high - low == 1;
        let to = match kept {
            _ if last => Space::Output.at(0, own.len),
            Some(_) => own,
            None => plan.scratch(own.len),
        };
        after = After::Follow(plan.reduce([partner], own, to, last, after));
        kept = Some((to, blocks.offset(low)));
    }
}
