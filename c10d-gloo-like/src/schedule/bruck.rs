//! Bruck's algorithms: in round `k` every rank communicates with the rank at distance `2^k`. They have the fewest
//! rounds for ops in which every rank has data for every other.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::member::doublings;
use super::{Blocks, Hosts, Member};
use crate::plan::{After, Plan, Space};

pub(crate) struct Bruck;

impl Schedule for Bruck {
    const NAME: &'static str = "bruck";
    const RANK_ORDER: bool = false;

    const OPS: &[OpKind] = &[OpKind::AllGatherInto, OpKind::Barrier];

    fn all_gather(me: Member, _: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        all_gather(me, blocks, plan);
    }

    fn barrier(me: Member, plan: &mut Plan) {
        barrier(me, plan);
    }
}

/// All-gather in which the number of blocks that a rank has doubles in each round.
///
/// Takes `ceil(log2(world))` rounds. Each rank sends `world - 1` blocks in all. In each round, it sends its own block
/// and blocks of the ranks after it.
pub(crate) fn all_gather(me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
    let own = Space::Input.at(0, blocks.len(me.rank));
    let copied = plan.copy(own, blocks.region(Space::Output, me.rank), After::Nothing);
    exchange(me, blocks, After::All(copied), plan);
}

/// Appends the rounds of [`all_gather`]. The first sends depend on `after`, which must ensure that this rank's block is
/// in the output.
pub(crate) fn exchange(me: Member, blocks: Blocks<'_>, mut after: After, plan: &mut Plan) {
    for distance in (0..doublings(me.world)).map(|k| 1 << k) {
        let count = distance.min(me.world - distance);
        for ranks in Blocks::circle(me.rank, count, me.world) {
            plan.send(me.behind(distance), blocks.range(Space::Output, ranks), after);
        }
        for ranks in Blocks::circle(me.ahead(distance), count, me.world) {
            after = After::All(plan.recv(me.ahead(distance), blocks.range(Space::Output, ranks)));
        }
    }
}

/// Barrier by dissemination: in round `k` every rank sends a message to the rank at distance `2^k`. The message means
/// that the sender, and all ranks from which the sender has heard directly or indirectly, have entered the barrier.
///
/// Takes `ceil(log2(world))` rounds. Each rank sends one empty message per round.
pub(crate) fn barrier(me: Member, plan: &mut Plan) {
    let nothing = Space::Output.at(0, 0);
    let mut after = After::Nothing;
    for distance in (0..doublings(me.world)).map(|k| 1 << k) {
        plan.send(me.ahead(distance), nothing, after);
        after = After::All(plan.recv(me.behind(distance), nothing));
    }
}
