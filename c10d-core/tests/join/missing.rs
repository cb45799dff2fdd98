//! Tests what happens if some ranks do not join.

use c10d_core::Phase;

use super::*;

#[test]
fn all_present_ranks_name_the_missing_ranks() {
    for (present, missing) in [(&[0, 2][..], &[1, 3][..]), (&[1, 2, 3], &[0]), (&[3], &[0, 1, 2])] {
        let ranks: Vec<_> = present.iter().map(|r| (*r, 4)).collect();
        for (result, (rank, _)) in build(&Arc::default(), SHORT, &ranks).into_iter().zip(&ranks) {
            let e = result.unwrap_err();
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Rendezvous, missing), "rank {rank}: {e}");
            assert_eq!((e.report().rank, e.report().phase), (Some(*rank), Some(Phase::Rendezvous)));
            assert!(e.report().group.is_some());
        }
    }
}

/// A rank with a longer timeout gets the failure from the leader, before its own timeout.
#[test]
fn a_failure_reaches_ranks_with_longer_timeouts() {
    let store = Arc::new(HashStore::new());
    std::thread::scope(|s| {
        let b = |r| builder().rank(r).size(3).store(store.clone());
        let patient = s.spawn(move || within(Duration::from_secs(10), || b(1).build().unwrap_err()));
        until("rank 1 waits", || store.check(&["group/default/hello/1"], soon()).unwrap());
        let leader = b(0).timeout(SHORT).build().unwrap_err();
        let told = patient.join().unwrap();
        assert_eq!((&*leader.report().guilty, &*told.report().guilty), (&[2][..], &[2][..]), "{told}");
    });
}

/// A busy store may need more time to answer (here 700 ms) than a rank waits between two checks of other ranks' keys.
/// The join must still succeed.
#[test]
fn a_store_that_answers_slowly_is_no_failure() {
    let store = keeps(Arc::default(), Duration::from_millis(700));
    std::thread::scope(|s| {
        let b = |r| builder().rank(r).size(2).store(store.clone());
        s.spawn(move || within(HANG, || b(0).build().unwrap()));
        until("rank 0 looks for rank 1", || store.checks.load(Ordering::Relaxed) >= 4);
        within(HANG, || b(1).build().unwrap());
    });
}
