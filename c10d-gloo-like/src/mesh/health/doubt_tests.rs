//! Tests how a rank compares calls by digests, and which peers it asks whether they made the same call. The call's hub
//! (here rank 0) receives from all others, so it compares the calls of all ranks. A rank far ahead no longer has the
//! call in its call log (`HISTORY` calls).

use std::sync::Arc;

use c10d_core::OpKind;
use c10d_core::backend::Fingerprint;
use c10d_core::calls::Whom;

use super::*;
use crate::call_log::HISTORY;
use crate::shm::{Layout, Segment};

/// Makes the health of ranks that are threads of this process.
fn ranks(world: u32) -> Vec<Arc<Health>> {
    let ranks: Vec<_> = (0..world).map(|rank| Health::new("group".into(), rank, world, None)).collect();
    let segments: Vec<_> =
        ranks.iter().map(|_| Arc::new(Segment::create(Layout::new(world as usize - 1)).unwrap())).collect();
    for (rank, health) in (0..).zip(&ranks) {
        for (peer, other) in (0..).zip(&ranks).filter(|(peer, _)| *peer != rank) {
            health.reach(peer, Path::Here(Arc::downgrade(other)));
        }
        let peers = (0..).zip(&segments).map(|(peer, segment)| (peer != rank).then(|| segment.clone()));
        health.shares(Some(segments[rank as usize].clone()), peers.collect());
    }
    ranks
}

fn gather(seq: u32) -> Fingerprint {
    Fingerprint { seq, op: OpKind::Gather as u8, count: 2, ..Fingerprint::default() }
}

/// Makes the gathers with these sequence numbers on one rank.
fn calls(health: &Health, numbers: std::ops::Range<u32>) {
    for seq in numbers {
        health.announce(&gather(seq)).unwrap();
        health.finish();
    }
}

#[test]
fn a_rank_far_ahead_is_not_asked_if_the_hub_compares_the_call() {
    let ranks = ranks(3);
    let [hub, fast, slow] = &ranks[..] else { unreachable!() };
    calls(fast, 0..HISTORY as u32 + 10);
    calls(slow, 0..1);
    let mut fresh = vec![Doubt { number: 0, fingerprint: gather(0), whom: Whom::All, hub: Some(0) }];
    assert!(slow.verify(&mut fresh, true).unwrap(), "the call must stay in doubt until the hub has made it");
    assert_eq!(slow.doubts.lock().unsettled(1), Some(0), "the fast rank must not be asked");
    calls(hub, 0..1);
    assert!(!slow.verify(&mut fresh, true).unwrap(), "no call must be in doubt after the hub has completed it");
}

#[test]
fn a_rank_that_leaves_asks_a_rank_far_ahead() {
    let ranks = ranks(3);
    let [_, fast, slow] = &ranks[..] else { unreachable!() };
    calls(fast, 0..HISTORY as u32 + 10);
    calls(slow, 0..1);
    let mut fresh = vec![Doubt { number: 0, fingerprint: gather(0), whom: Whom::All, hub: Some(0) }];
    assert!(slow.verify(&mut fresh, false).unwrap(), "the call must stay in doubt until the hub has made it");
    assert_eq!(slow.doubts.lock().unsettled(1), None, "the fast rank must be asked");
}

#[test]
fn a_peer_that_differs_is_found_while_another_peer_is_late() {
    let ranks = ranks(3);
    let [me, late, odd] = &ranks[..] else { unreachable!() };
    calls(me, 0..2);
    calls(odd, 0..1);
    odd.announce(&Fingerprint { root: 1, ..gather(1) }).unwrap();
    assert_eq!(me.compare_digests(0), None, "the late rank has not made the call");
    assert_eq!(me.compare_digests(1), Some(false), "the odd rank has made another call");
    calls(late, 0..1);
    assert_eq!(me.compare_digests(0), Some(true));
    assert_eq!(me.compare_digests(1), Some(false));
}

#[test]
fn a_call_that_a_log_has_forgotten_counts_as_different() {
    let ranks = ranks(2);
    let [me, fast] = &ranks[..] else { unreachable!() };
    calls(me, 0..1);
    calls(fast, 0..HISTORY as u32);
    assert_eq!(me.compare_digests(0), Some(true));
    calls(fast, HISTORY as u32..HISTORY as u32 + 1);
    assert_eq!(me.compare_digests(0), Some(false));
}

#[test]
fn a_group_that_failed_on_a_peer_counts_as_different() {
    let ranks = ranks(2);
    let [me, failed] = &ranks[..] else { unreachable!() };
    calls(me, 0..1);
    calls(failed, 0..1);
    assert_eq!(me.compare_digests(0), Some(true));
    failed.call_log().give_up();
    assert_eq!(me.compare_digests(0), Some(false));
}
