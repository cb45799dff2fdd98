//! Tests groups over a store that an earlier run or group has used.

use super::*;

/// Makes a store with the keys of an earlier run that was killed before it could delete them.
fn used_store(size: u32) -> Arc<HashStore> {
    let store = Arc::new(HashStore::new());
    let keeps = keeps(store.clone(), Duration::ZERO);
    std::thread::scope(|s| {
        for r in 0..size {
            let b = builder().timeout(5 * SHORT).rank(r).size(size).store(keeps.clone());
            s.spawn(move || b.build().unwrap());
        }
    });
    assert!(store.check(&[&format!("group/default/hello/{}", size - 1)], soon()).unwrap());
    store
}

#[test]
fn keys_of_an_earlier_run_are_ignored() {
    for earlier in [1, 2, 3, 5] {
        // `earlier` is the world size of the earlier run. The ranks join in the order 0, 2, 1. Ranks 2 and 1 wait until
        // the previous rank has replaced its key of the earlier run.
        let store = used_store(earlier);
        let value = |key: &str| {
            let there = store.check(&[key], soon()).unwrap();
            there.then(|| store.get(key, soon()).unwrap())
        };
        let key_before = |r| ["", "group/default/hello/2", "group/default/hello/0"][r];
        let old = [0, 1, 2].map(|r| value(key_before(r)));
        std::thread::scope(|s| {
            for r in 0..3 {
                let b = builder().rank(r).size(3).store(store.clone());
                let (value, old) = (&value, &old);
                s.spawn(move || {
                    if r > 0 {
                        until("the rank before has joined", || value(key_before(r as usize)) != old[r as usize]);
                    }
                    within(HANG, || b.build()).unwrap_or_else(|e| panic!("after a run of {earlier}, rank {r}: {e}"));
                });
            }
        });
        // Rank 2 does not join. The errors name only rank 2, even if the store has its key from the earlier run.
        let store = used_store(earlier);
        for result in build(&store, SHORT * 2, &[(0, 3), (1, 3)]) {
            let e = result.unwrap_err();
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Rendezvous, &[2][..]), "after {earlier}: {e}");
        }
    }
    // The earlier run has failed, since rank 1 was missing. The later run ignores that.
    let store = Arc::new(HashStore::new());
    build(&store, SHORT, &[(0, 2)])[0].as_ref().unwrap_err();
    for result in build(&store, LONG, &[(0, 2), (1, 2)]) {
        result.unwrap();
    }
}

/// The errors do not name the ranks that wait. They name the ranks whose keys, left by an earlier run, do not change.
#[test]
fn a_rank_among_stale_keys_names_all_that_are_missing() {
    for (present, missing) in [(&[2][..], &[0, 1, 3][..]), (&[2, 3], &[0, 1]), (&[0, 3], &[1, 2])] {
        let store = used_store(4);
        let ranks: Vec<_> = present.iter().map(|r| (*r, 4)).collect();
        for e in build(&store, 4 * SHORT, &ranks).into_iter().map(Result::unwrap_err) {
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Rendezvous, missing), "{e}");
        }
    }
}

/// In each round, three ranks make a group of the same name. Some ranks are a round ahead, since no rank waits between
/// rounds.
#[test]
fn groups_of_one_name_can_follow_each_other_over_one_store() {
    const ROUNDS: usize = 20;
    let store = Arc::new(HashStore::new());
    type Sessions = Mutex<Vec<(u32, [u8; 16])>>;
    let sessions: Arc<Sessions> = Arc::default();
    let told = sessions.clone();
    let builder = common::builder(move |init| {
        told.lock().unwrap().push((init.rank, init.session));
        puppet(|job| job.complete(Ok(())))
    });
    std::thread::scope(|s| {
        for r in 0..3 {
            let b = builder.clone().timeout(LONG).rank(r).size(3).store(store.clone());
            s.spawn(move || {
                for round in 0..ROUNDS {
                    b.clone().build().unwrap_or_else(|e| panic!("round {round}, rank {r}: {e}"));
                }
            });
        }
    });
    let sessions = sessions.lock().unwrap();
    let of = |rank| sessions.iter().filter(move |(r, _)| *r == rank).map(|(_, session)| session);
    assert_eq!(of(0).count(), ROUNDS);
    assert!(of(0).eq(of(1)) && of(0).eq(of(2)), "the ranks met in different rounds");
    assert_eq!(store.num_keys(soon()).unwrap(), 0, "the store still has keys");
}
