//! Reduces inside each host, then between the first ranks of the hosts, and then distributes the result inside each
//! host. Between two hosts, only one pair of ranks communicates.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Blocks, Hosts, Member};
use crate::plan::{After, Plan, Space};

pub(crate) struct Hierarchical;

impl Schedule for Hierarchical {
    const NAME: &'static str = "hierarchical";
    const RANK_ORDER: bool = false;

    const OPS: &[OpKind] = &[OpKind::AllReduce];

    fn all_reduce(me: Member, hosts: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
        all_reduce(me, hosts, bytes, elem, plan);
    }
}

/// The first rank of each host, its leader, reduces for its host. The leaders all-reduce directly, and send the result
/// to the ranks of their hosts.
///
/// Takes up to 4 rounds. A rank that is not a leader sends `bytes`. With `n` hosts, a leader sends about
/// `2 * bytes * (n - 1) / n` to other hosts, and `bytes` to each other rank of its host.
pub(crate) fn all_reduce(me: Member, hosts: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
    let all = Space::Output.at(0, bytes);
    let (host, count) = (hosts.of(me.rank), hosts.count());
    let blocks = Blocks::split(bytes, count, elem);
    let block = |host: u32| blocks.region(Space::Output, host);
    let leader = hosts.leader(host);
    if me.rank != leader {
        plan.send(leader, all, After::Nothing);
        for b in 0..count {
            plan.recv(leader, block(b));
        }
        return;
    }
    let mine = || hosts.on(host)[1..].iter().copied();
    let leaders = || (0..count).filter(|h| *h != host).map(|h| (h, hosts.leader(h)));

    let mut after = After::Nothing;
    if mine().next().is_some() || count == 1 {
        after = After::Follow(plan.reduce(mine(), all, all, count == 1, after));
    }
    for (other, leader) in leaders() {
        plan.send(leader, block(other), after);
    }
    let own = block(host);
    if count > 1 {
        after = After::Follow(plan.reduce(leaders().map(|(_, leader)| leader), own, own, true, after));
    }
    for (_, leader) in leaders() {
        plan.send(leader, own, after);
    }
    // The leader sends each block to the ranks of its host as soon as the block has arrived, in the order of the
    // blocks.
    for other in 0..count {
        let ready = if other == host { after } else { After::Follow(plan.recv(hosts.leader(other), block(other))) };
        for member in mine() {
            plan.send(member, block(other), ready);
        }
    }
}
