//! Each rank communicates only with its two neighbours, around the circle. A ring sends the fewest bytes and needs the
//! most rounds.
//!
//! A rank forwards a block while it receives the block, so the rounds overlap.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Blocks, Hosts, Member};
use crate::plan::{After, Plan, Space, StepId};

pub(crate) struct Ring;

impl Schedule for Ring {
    const NAME: &'static str = "ring";
    const RANK_ORDER: bool = false;

    const OPS: &[OpKind] = &[OpKind::AllReduce, OpKind::Broadcast, OpKind::ReduceScatterInto, OpKind::AllGatherInto];

    fn all_reduce(me: Member, _: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
        all_reduce(me, bytes, elem, plan);
    }

    fn broadcast(me: Member, root: u32, bytes: usize, _: usize, plan: &mut Plan) {
        broadcast(me, root, bytes, plan);
    }

    fn reduce_scatter(me: Member, _: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        reduce_scatter(me, blocks, plan);
    }

    fn all_gather(me: Member, _: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        all_gather(me, blocks, plan);
    }
}

/// Each block goes around the circle once, and each rank reduces its data into the block. Then each reduced block goes
/// around once.
///
/// Takes `2 * (world - 1)` rounds. In the first half of the rounds, each rank sends every block except its own, and in
/// the second half every block except its next neighbour's: about `2 * bytes * (world - 1) / world`.
pub(crate) fn all_reduce(me: Member, bytes: usize, elem: usize, plan: &mut Plan) {
    let blocks = Blocks::split(bytes, me.world, elem);
    let block = |p| blocks.region(Space::Output, p);
    if me.world == 1 {
        plan.reduce([], block(0), block(0), true, After::Nothing);
        return;
    }
    let mut after = After::Nothing;
    for s in 0..me.world - 1 {
        plan.send(me.ahead(1), block(me.behind(s + 1)), after);
        let next = block(me.behind(s + 2));
        let reduced = plan.reduce([me.behind(1)], next, next, s == me.world - 2, After::Nothing);
        after = After::Follow(reduced);
    }
    pass_around(me, blocks, after, plan);
}

/// Each block goes around the circle once, and each rank reduces its data into the block. The last of these ranks is
/// the one to which the block belongs.
///
/// Takes `world - 1` rounds. Each rank sends every block except its own.
pub(crate) fn reduce_scatter(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    let own = |p| blocks.region(Space::Input, p);
    let output = Space::Output.at(0, blocks.len(me.rank));
    if me.world == 1 {
        plan.reduce([], own(0), output, true, After::Nothing);
        return;
    }
    // There are two buffers for blocks in transfer: one is filled while the other is sent.
    let longest = if me.world > 2 { (0..me.world).map(|p| blocks.len(p)).max().unwrap_or(0) } else { 0 };
    let slots = [plan.scratch(longest), plan.scratch(longest)];
    // The last send from each buffer.
    let mut sent: [StepId; 2] = [plan.send(me.ahead(1), own(me.behind(1)), After::Nothing); 2];
    for s in 0..me.world - 1 {
        let slot = s as usize % 2;
        let from = own(me.behind(s + 2));
        if s == me.world - 2 {
            plan.reduce([me.behind(1)], from, output, true, After::Nothing);
        } else {
            let to = Space::Scratch.at(slots[slot].offset, from.len);
            let after = if s < 2 { After::Nothing } else { After::Trail(sent[slot]) };
            let reduced = plan.reduce([me.behind(1)], from, to, false, after);
            sent[slot] = plan.send(me.ahead(1), to, After::Follow(reduced));
        }
    }
}

/// Each block goes around the circle once.
///
/// Takes `world - 1` rounds. Each rank sends every block except its next neighbour's.
pub(crate) fn all_gather(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    let own = Space::Input.at(0, blocks.len(me.rank));
    let target = blocks.region(Space::Output, me.rank);
    if me.world == 1 {
        plan.copy(own, target, After::Nothing);
        return;
    }
    plan.send(me.ahead(1), own, After::Nothing);
    plan.copy(own, target, After::Nothing);
    let mut arrived = plan.recv(me.behind(1), blocks.region(Space::Output, me.behind(1)));
    for s in 1..me.world - 1 {
        plan.send(me.ahead(1), blocks.region(Space::Output, me.behind(s)), After::Follow(arrived));
        arrived = plan.recv(me.behind(1), blocks.region(Space::Output, me.behind(s + 1)));
    }
}

/// Appends the steps that pass each block of the output once around the circle. The send of this rank's own block
/// depends on `after`.
fn pass_around(me: Member, blocks: Blocks<'_>, mut after: After, plan: &mut Plan) {
    for s in 0..me.world - 1 {
        plan.send(me.ahead(1), blocks.region(Space::Output, me.behind(s)), after);
        after = After::Follow(plan.recv(me.behind(1), blocks.region(Space::Output, me.behind(s + 1))));
    }
}

/// A chain from the root: each rank forwards the arriving bytes to the next rank.
///
/// Takes `world - 1` rounds. Each rank except the last of the chain sends `bytes`.
pub(crate) fn broadcast(me: Member, root: u32, bytes: usize, plan: &mut Plan) {
    let all = Space::Output.at(0, bytes);
    let v = me.counted_from(root);
    let after = if v > 0 { After::Follow(plan.recv(me.behind(1), all)) } else { After::Nothing };
    if v + 1 < me.world {
        plan.send(me.ahead(1), all, after);
    }
}
