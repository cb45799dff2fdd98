//! Hosts first: it uses shared memory inside a host, and one stream per pair of hosts between them.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Blocks, Member};
use crate::plan::{After, Plan, Space};

pub(crate) struct Hierarchical;

impl Schedule for Hierarchical {
    const NAME: &'static str = "hierarchical";
    const RANK_ORDER: bool = false;

    const OPS: &[OpKind] = &[OpKind::AllReduce];

    fn all_reduce(me: Member, hosts: &[u32], bytes: usize, elem: usize, plan: &mut Plan) {
        all_reduce(me, hosts, bytes, elem, plan);
    }
}

/// The first rank of each host, its leader, reduces for its host. The leaders all-reduce directly, and send the result
/// to the ranks of their hosts.
///
/// `hosts[p]` is rank `p`'s host. Up to 4 rounds. A rank that does not lead sends `bytes`. With `n` hosts, a leader sends
/// about `2 * bytes * (n - 1) / n` to other hosts, and `bytes` to each other rank of its host.
pub(crate) fn all_reduce(me: Member, hosts: &[u32], bytes: usize, elem: usize, plan: &mut Plan) {
    let leads = |p: u32| leader(hosts, p) == p;
    let all = Space::Output.at(0, bytes);
    if !leads(me.rank) {
        let leader = leader(hosts, me.rank);
        let hosts_in_all = (0..me.world).filter(|p| leads(*p)).count() as u32;
        plan.send(leader, all, After::Nothing);
        let blocks = Blocks::split(bytes, hosts_in_all, elem);
        for b in 0..hosts_in_all {
            plan.recv(leader, blocks.region(Space::Output, b));
        }
        return;
    }
    let is_mine = |p: u32| p != me.rank && hosts[p as usize] == hosts[me.rank as usize];
    let is_leader = |p: u32| p != me.rank && leads(p);
    let mine = || (0..me.world).filter(|p| is_mine(*p));
    let leaders = || (0..me.world).filter(|p| is_leader(*p));

    let count = leaders().count() as u32 + 1;
    let number = |leader: u32| (0..leader).filter(|p| leads(*p)).count() as u32;
    let blocks = Blocks::split(bytes, count, elem);
    let block = |leader: u32| blocks.region(Space::Output, number(leader));

    let mut after = After::Nothing;
    if mine().next().is_some() || count == 1 {
        after = After::Follow(plan.reduce(mine(), all, all, count == 1, after));
    }
    for p in leaders() {
        plan.send(p, block(p), after);
    }
    let own = block(me.rank);
    if count > 1 {
        after = After::Follow(plan.reduce(leaders(), own, own, true, after));
    }
    for p in leaders() {
        plan.send(p, own, after);
    }
    // Every block goes to the ranks of the host as soon as it has arrived, in the order of the blocks.
    for p in (0..me.world).filter(|p| leads(*p)) {
        let ready = if p == me.rank { after } else { After::Follow(plan.recv(p, block(p))) };
        for member in mine() {
            plan.send(member, block(p), ready);
        }
    }
}

/// The first rank on the host of `p`.
fn leader(hosts: &[u32], p: u32) -> u32 {
    hosts.iter().position(|h| *h == hosts[p as usize]).map_or(p, |first| first as u32)
}
