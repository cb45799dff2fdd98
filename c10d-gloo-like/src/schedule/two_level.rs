//! Algorithms that communicate inside the hosts, then between the hosts, then inside the hosts again. Between hosts,
//! they need as few bytes and rounds as if each host had only one rank.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Blocks, Hosts, Member, bruck, double_tree, halving_doubling, hierarchical, scatter_gather};
use crate::plan::{After, Plan, Space};

pub(crate) struct TwoLevel;

impl Schedule for TwoLevel {
    const NAME: &'static str = "two-level";
    const RANK_ORDER: bool = false;
    const OPS: &[OpKind] = &[OpKind::AllReduce, OpKind::AllGatherInto];

    fn all_reduce(me: Member, hosts: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
        all_reduce(me, hosts, bytes, elem, plan);
    }

    fn all_gather(me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
        all_gather(me, hosts, blocks, plan);
    }
}

/// Each rank reduces one part of the vector for its host. The ranks with the same index on their hosts all-reduce their
/// part. Then each rank sends its part to the other ranks of its host. If the hosts have different numbers of ranks,
/// this appends the plan of the hierarchical algorithm.
///
/// With `h` hosts of `k` ranks, there are 2 rounds inside the hosts. Between hosts, there are `2 * log2(h)` rounds if
/// `h` is a power of two, and about twice as many otherwise. A rank sends about `2 * bytes * (k - 1) / k` inside its
/// host. Between hosts it sends as many bytes as in an all-reduce of `bytes / k` over `h` ranks.
pub(crate) fn all_reduce(me: Member, hosts: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
    let Some(each) = hosts.each() else { return hierarchical::all_reduce(me, hosts, bytes, elem, plan) };
    let (host, count, place) = (hosts.of(me.rank), hosts.count(), hosts.place(me.rank));
    let local = Member { world: each, rank: place };
    let rank = |place: u32| hosts.on(host)[place as usize];
    let parts = Blocks::split(bytes, each, elem);
    let part = |place: u32| parts.region(Space::Output, place);
    let own = part(place);
    for p in local.others() {
        plan.send(rank(p), part(p), After::Nothing);
    }
    if each > 1 || count == 1 {
        plan.reduce(local.others().map(rank), own, own, count == 1, After::Nothing);
    }
    if count > 1 {
        let between = Member { world: count, rank: host };
        plan.nest(
            own.offset,
            |host| hosts.on(host)[place as usize],
            |plan| match count.is_power_of_two() {
                true => halving_doubling::all_reduce(between, own.len, elem, plan),
                false => double_tree::all_reduce(between, own.len, elem, plan),
            },
        );
    }
    let over = After::All(plan.last());
    for p in local.others() {
        plan.send(rank(p), own, over);
    }
    for p in local.others() {
        plan.recv(rank(p), part(p));
    }
}

/// The first rank of each host gathers the blocks of its host. The first ranks of all hosts exchange these blocks in
/// rounds, and then broadcast all blocks inside their hosts. If the blocks differ in length, or the hosts do not have
/// the same number of consecutive ranks, this appends the plan of Bruck's algorithm.
///
/// With `h` hosts and `bytes` bytes in all blocks together, there are `ceil(log2(h))` rounds between the hosts, and 3
/// rounds inside the hosts. The first rank of a host sends `bytes * (h - 1) / h` to other hosts, and `bytes` inside its
/// own host.
pub(crate) fn all_gather(me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
    let each = hosts.each().filter(|_| hosts.are_consecutive() && blocks.are_equal());
    let Some(each) = each else { return bruck::all_gather(me, blocks, plan) };
    let (host, count, len) = (hosts.of(me.rank), hosts.count(), blocks.len(0));
    let own = Space::Input.at(0, len);
    let leader = hosts.leader(host);
    if me.rank == leader {
        plan.copy(own, blocks.region(Space::Output, me.rank), After::Nothing);
        for p in &hosts.on(host)[1..] {
            plan.recv(*p, blocks.region(Space::Output, *p));
        }
        let gathered = After::All(plan.last());
        let of_hosts = Blocks::uniform(count, len * each as usize);
        let between = Member { world: count, rank: host };
        plan.nest(0, |host| hosts.leader(host), |plan| bruck::exchange(between, of_hosts, gathered, plan));
    } else {
        plan.send(leader, own, After::Nothing);
    }
    if each > 1 {
        let local = Member { world: each, rank: me.rank - leader };
        let all = len * me.world as usize;
        plan.nest(0, |place| leader + place, |plan| scatter_gather::broadcast(local, 0, all, 1, plan));
    }
}
