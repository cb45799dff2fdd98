//! From the chosen algorithm to the plan, op by op.

use super::select::Algorithm;
use super::{Blocks, Member, bruck, direct, halving_doubling, hierarchical, ring, tree};
use crate::plan::Plan;

/// `hosts[p]` is rank `p`'s host; only [`Algorithm::Hierarchical`] reads it.
pub(crate) fn all_reduce(how: Algorithm, me: Member, hosts: &[u32], bytes: usize, elem: usize, plan: &mut Plan) {
    match how {
        Algorithm::OneShot | Algorithm::Local => direct::all_reduce_one_shot(me, bytes, plan),
        Algorithm::Ring => ring::all_reduce(me, bytes, elem, plan),
        Algorithm::HalvingDoubling => halving_doubling::all_reduce(me, bytes, elem, plan),
        Algorithm::Tree => tree::all_reduce(me, bytes, plan),
        Algorithm::Hierarchical => hierarchical::all_reduce(me, hosts, bytes, elem, plan),
        _ => direct::all_reduce(me, bytes, elem, plan),
    }
}

/// The input of every rank is left as it is; only the root has an output.
pub(crate) fn reduce(how: Algorithm, me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
    match how {
        Algorithm::ScatterGather => direct::reduce_scatter_gather(me, root, bytes, elem, plan),
        Algorithm::Tree => tree::reduce(me, root, bytes, plan),
        _ => direct::reduce(me, root, bytes, plan),
    }
}

/// In place, in the output.
pub(crate) fn broadcast(how: Algorithm, me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
    match how {
        Algorithm::ScatterGather => direct::broadcast_scatter_gather(me, root, bytes, elem, plan),
        Algorithm::Tree => tree::broadcast(me, root, bytes, plan),
        Algorithm::Ring => ring::broadcast(me, root, bytes, plan),
        _ => direct::broadcast(me, root, bytes, plan),
    }
}

/// The input has all blocks, the output the own one.
pub(crate) fn reduce_scatter(how: Algorithm, me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    match how {
        Algorithm::Ring => ring::reduce_scatter(me, blocks, plan),
        _ => direct::reduce_scatter(me, blocks, plan),
    }
}

/// The input has the own block, the output all.
pub(crate) fn all_gather(how: Algorithm, me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    match how {
        Algorithm::Ring => ring::all_gather(me, blocks, plan),
        Algorithm::Bruck => bruck::all_gather(me, blocks, plan),
        _ => direct::all_gather(me, blocks, plan),
    }
}

/// Nothing but the meeting.
pub(crate) fn barrier(how: Algorithm, me: Member, plan: &mut Plan) {
    match how {
        Algorithm::Bruck => bruck::barrier(me, plan),
        _ => direct::barrier(me, plan),
    }
}
