//! Chooses the plan of a simulated call, as the layout of a real call does.

use c10d_core::OpKind;

use super::scenario::Scenario;
use crate::plan::Plan;
use crate::schedule::{Algorithm, Blocks, Hosts, Member, direct};

/// Fills the empty `plan` with the steps of one rank.
pub(super) fn fill(scenario: Scenario, how: Algorithm, me: Member, hosts: &Hosts, plan: &mut Plan) {
    const ROOT: u32 = 0;
    let Scenario { op, bytes, elem } = scenario;
    let own = bytes / me.world as usize;
    let blocks = Blocks::uniform(me.world, own);
    match op {
        OpKind::AllReduce => how.all_reduce(me, hosts, bytes, elem, plan),
        OpKind::Reduce => how.reduce(me, ROOT, bytes, elem, plan),
        OpKind::Broadcast => how.broadcast(me, ROOT, bytes, elem, plan),
        OpKind::ReduceScatterInto => how.reduce_scatter(me, hosts, blocks, plan),
        OpKind::AllGatherInto => how.all_gather(me, hosts, blocks, plan),
        OpKind::AllToAllSingle => direct::all_to_all(me, blocks, blocks, plan),
        OpKind::Gather => direct::gather(me, ROOT, own, blocks, plan),
        OpKind::Scatter => direct::scatter(me, ROOT, own, blocks, plan),
        _ => how.barrier(me, plan),
    }
}
