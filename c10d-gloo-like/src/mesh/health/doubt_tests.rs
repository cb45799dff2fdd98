//! Tests which peers a rank asks whether they made the same call. The call's hub (here rank 0) receives from all
//! others, so it compares the calls of all ranks. A rank far ahead no longer has the call in its call log (`HISTORY`
//! calls).

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
