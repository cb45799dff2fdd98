//! Every rank sends to every other rank directly. This needs one round, or two for an all-reduce. Every element is
//! reduced on one rank, in rank order.
//!
//! These algorithms suit small worlds, shared memory, and element types whose sums must be rounded once.

use super::{Blocks, Member};
use crate::plan::{After, Plan, Space};

/// Each rank reduces its block of the result and sends it to all others.
///
/// Takes 2 rounds. Each rank sends all blocks except its own, and then sends its block `world - 1` times: about
/// `2 * bytes * (world - 1) / world`.
pub(crate) fn all_reduce(me: Member, bytes: usize, elem: usize, plan: &mut Plan) {
    let blocks = Blocks::split(bytes, me.world, elem);
    let block = |p| blocks.region(Space::Output, p);
    for p in me.others() {
        plan.send(p, block(p), After::Nothing);
    }
    let reduced = plan.reduce(me.others(), block(me.rank), block(me.rank), true, After::Nothing);
    plan.send_all(me.others(), block(me.rank), After::Follow(reduced));
    for p in me.others() {
        plan.recv(p, block(p));
    }
}

/// Each rank sends its data to the root, which reduces the data of all ranks.
///
/// Takes 1 round. Each rank except the root sends `bytes`.
pub(crate) fn reduce(me: Member, root: u32, bytes: usize, plan: &mut Plan) {
    let input = Space::Input.at(0, bytes);
    if me.rank == root {
        plan.reduce(me.others(), input, Space::Output.at(0, bytes), true, After::Nothing);
    } else {
        plan.send(root, input, After::Nothing);
    }
}

/// The root sends its data to all others.
///
/// Takes 1 round. The root sends `(world - 1) * bytes`.
pub(crate) fn broadcast(me: Member, root: u32, bytes: usize, plan: &mut Plan) {
    let all = Space::Output.at(0, bytes);
    if me.rank == root {
        plan.send_all(me.others(), all, After::Nothing);
    } else {
        plan.recv(root, all);
    }
}

/// Each rank sends to every other rank that rank's block, and reduces its own block.
///
/// Takes 1 round. Each rank sends all blocks except its own.
pub(crate) fn reduce_scatter(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    for p in me.others() {
        plan.send(p, blocks.region(Space::Input, p), After::Nothing);
    }
    let own = blocks.region(Space::Input, me.rank);
    plan.reduce(me.others(), own, Space::Output.at(0, own.len), true, After::Nothing);
}

/// Each rank sends its block to all others.
///
/// Takes 1 round. Each rank sends its block `world - 1` times.
pub(crate) fn all_gather(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    let own = Space::Input.at(0, blocks.len(me.rank));
    plan.send_all(me.others(), own, After::Nothing);
    plan.copy(own, blocks.region(Space::Output, me.rank), After::Nothing);
    for p in me.others() {
        plan.recv(p, blocks.region(Space::Output, p));
    }
}

/// Each rank sends its block to the root. Only the root reads `blocks`; the others send `own` bytes.
///
/// Takes 1 round. Each rank except the root sends its block.
pub(crate) fn gather(me: Member, root: u32, own: usize, blocks: Blocks<'_>, plan: &mut Plan) {
    let input = Space::Input.at(0, own);
    if me.rank != root {
        plan.send(root, input, After::Nothing);
        return;
    }
    plan.copy(input, blocks.region(Space::Output, root), After::Nothing);
    for p in me.others() {
        plan.recv(p, blocks.region(Space::Output, p));
    }
}

/// The root sends each rank its block. Only the root reads `blocks`; the others receive `own` bytes.
///
/// Takes 1 round. The root sends all blocks except its own.
pub(crate) fn scatter(me: Member, root: u32, own: usize, blocks: Blocks<'_>, plan: &mut Plan) {
    let output = Space::Output.at(0, own);
    if me.rank != root {
        plan.recv(root, output);
        return;
    }
    for p in me.others() {
        plan.send(p, blocks.region(Space::Input, p), After::Nothing);
    }
    plan.copy(blocks.region(Space::Input, root), output, After::Nothing);
}

/// Each rank sends a different block to every other rank. Input and output may be divided differently.
///
/// Takes 1 round. Each rank sends all blocks except the one that it keeps.
pub(crate) fn all_to_all(me: Member, input: Blocks<'_>, output: Blocks<'_>, plan: &mut Plan) {
    for p in me.others() {
        plan.send(p, input.region(Space::Input, p), After::Nothing);
    }
    plan.copy(input.region(Space::Input, me.rank), output.region(Space::Output, me.rank), After::Nothing);
    for p in me.others() {
        plan.recv(p, output.region(Space::Output, p));
    }
}

/// Each rank sends an empty message to every other rank.
///
/// Takes 1 round. Each rank sends `world - 1` empty messages.
pub(crate) fn barrier(me: Member, plan: &mut Plan) {
    let nothing = Space::Output.at(0, 0);
    for p in me.others() {
        plan.send(p, nothing, After::Nothing);
    }
    for p in me.others() {
        plan.recv(p, nothing);
    }
}
