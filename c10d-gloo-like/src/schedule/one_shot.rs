//! Every rank sends all its data to every other rank in one round, for data so small that repeated bytes cost less than
//! a second round.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Hosts, Member};
use crate::plan::{After, Plan, Space};

pub(crate) struct OneShot;

impl Schedule for OneShot {
    const NAME: &'static str = "one-shot";
    const RANK_ORDER: bool = true;

    const OPS: &[OpKind] = &[OpKind::AllReduce];

    fn all_reduce(me: Member, _: &Hosts, bytes: usize, _: usize, plan: &mut Plan) {
        all_reduce(me, bytes, plan);
    }
}

/// Each rank sends its data to all others and reduces everything.
///
/// Takes 1 round. Each rank sends `(world - 1) * bytes`.
pub(crate) fn all_reduce(me: Member, bytes: usize, plan: &mut Plan) {
    let all = Space::Output.at(0, bytes);
    for p in me.others() {
        plan.send(p, all, After::Nothing);
    }
    let after = if me.world > 1 { After::Trail(plan.last()) } else { After::Nothing };
    plan.reduce(me.others(), all, all, true, after);
}
