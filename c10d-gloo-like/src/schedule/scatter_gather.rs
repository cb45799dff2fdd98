//! Divides the work of a root: each rank does this work for its own part of the data.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Blocks, Member};
use crate::plan::{After, Plan, Space};

pub(crate) struct ScatterGather;

impl Schedule for ScatterGather {
    const NAME: &'static str = "scatter-gather";
    const RANK_ORDER: bool = true;

    const OPS: &[OpKind] = &[OpKind::Reduce, OpKind::Broadcast];

    fn reduce(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        reduce(me, root, bytes, elem, plan);
    }

    fn broadcast(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        broadcast(me, root, bytes, elem, plan);
    }
}

/// Each rank reduces its block of the result, and all ranks except the root send theirs to the root.
///
/// Takes 2 rounds. In the first, each rank sends all blocks of its input except its own. In the second, each rank
/// except the root sends its reduced block. So each rank except the root sends `bytes` in total.
pub(crate) fn reduce(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
    let blocks = Blocks::split(bytes, me.world, elem);
    for p in me.others() {
        plan.send(p, blocks.region(Space::Input, p), After::Nothing);
    }
    let own = blocks.region(Space::Input, me.rank);
    if me.rank == root {
        plan.reduce(me.others(), own, blocks.region(Space::Output, me.rank), true, After::Nothing);
        for p in me.others() {
            plan.recv(p, blocks.region(Space::Output, p));
        }
    } else {
        let part = plan.scratch(own.len);
        let reduced = plan.reduce(me.others(), own, part, true, After::Nothing);
        plan.send(root, part, After::Follow(reduced));
    }
}

/// The root sends a different part to each other rank, and these ranks send their parts to each other.
///
/// Takes 2 rounds. The root sends `bytes`, and each other rank sends its part of about `bytes / (world - 1)` to
/// `world - 2` ranks.
pub(crate) fn broadcast(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
    let others = me.world.saturating_sub(1).max(1);
    let blocks = Blocks::split(bytes, others, elem);
    let part = |p: u32| blocks.region(Space::Output, Member { rank: p, ..me }.counted_from(root) - 1);
    if me.rank == root {
        for p in me.others() {
            plan.send(p, part(p), After::Nothing);
        }
        return;
    }
    let mine = plan.recv(root, part(me.rank));
    for p in me.others().filter(|p| *p != root) {
        plan.send(p, part(me.rank), After::Follow(mine));
    }
    for p in me.others().filter(|p| *p != root) {
        plan.recv(p, part(p));
    }
}
