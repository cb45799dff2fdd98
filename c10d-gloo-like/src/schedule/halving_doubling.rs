//! Recursive halving and doubling (Rabenseifner): it needs few rounds and few bytes, in worlds of any size.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Blocks, Hosts, Member};
use crate::plan::{After, Plan, Space};

pub(crate) struct HalvingDoubling;

impl Schedule for HalvingDoubling {
    const NAME: &'static str = "halving-doubling";
    const RANK_ORDER: bool = false;

    const OPS: &[OpKind] = &[OpKind::AllReduce];

    fn all_reduce(me: Member, _: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
        all_reduce(me, bytes, elem, plan);
    }
}

/// First the halving: in each round, a rank and its partner divide the part of the vector that both have, and each of
/// them reduces one half of this part. The distance between partners halves from round to round. Then the doubling:
/// each rank exchanges reduced parts with the same partners, in reverse order.
///
/// Let `n` be the largest power of two that is at most the world size. There are `2 * log2(n)` rounds, and 2 more if
/// the world is larger than `n`. `n` ranks take part in the halving and doubling, and each of them sends about `2 *
/// bytes * (n - 1) / n`. Each other rank first sends its vector (`bytes`) to a partner, which sends the result (`bytes`
/// more) back at the end.
pub(crate) fn all_reduce(me: Member, bytes: usize, elem: usize, plan: &mut Plan) {
    let all = Space::Output.at(0, bytes);
    let n = 1 << me.world.ilog2();
    let extra = me.world - n;
    // The first `2 * extra` ranks form pairs. The odd rank of a pair only sends its vector to the even rank, and
    // receives the result.
    let paired = me.rank < 2 * extra;
    if paired && me.rank % 2 == 1 {
        plan.send(me.rank - 1, all, After::Nothing);
        plan.recv(me.rank - 1, all);
        return;
    }
    let rank_of = |v: u32| if v < extra { 2 * v } else { v + extra };
    let v = if paired { me.rank / 2 } else { me.rank - extra };
    let mut after = After::Nothing;
    if paired {
        after = After::Follow(plan.reduce([me.rank + 1], all, all, n == 1, after));
    } else if n == 1 {
        plan.reduce([], all, all, true, after);
    }

    let blocks = Blocks::split(bytes, n, elem);
    let (mut low, mut high) = (0, n);
    let mut mask = n / 2;
    while mask > 0 {
        let middle = low + mask;
        let (keep, give) = if v & mask == 0 { (low..middle, middle..high) } else { (middle..high, low..middle) };
        let partner = rank_of(v ^ mask);
        plan.send(partner, blocks.range(Space::Output, give), after);
        let kept = blocks.range(Space::Output, keep.clone());
        after = After::Follow(plan.reduce([partner], kept, kept, mask == 1, after));
        (low, high) = (keep.start, keep.end);
        mask /= 2;
    }
    for mask in (0..n.ilog2()).map(|k| 1 << k) {
        let partner = rank_of(v ^ mask);
        let start = v & !(mask - 1);
        plan.send(partner, blocks.range(Space::Output, start..start + mask), after);
        let theirs = start ^ mask;
        after = After::All(plan.recv(partner, blocks.range(Space::Output, theirs..theirs + mask)));
    }
    if paired {
        plan.send(me.rank + 1, all, after);
    }
}
