//! Tests ranks that contradict each other, and invalid values.

use super::*;

#[test]
fn different_world_sizes_are_a_mismatch() {
    let cases = [
        (&[(0, 2), (1, 3), (2, 3)][..], 1),
        (&[(0, 3), (1, 2)], 1),
        (&[(0, 4), (1, 4), (2, 3)], 2),
        (&[(0, 1), (1, 2)], 9),
    ];
    for (ranks, guilty) in cases {
        let store = Arc::new(HashStore::new());
        let start = Instant::now();
        let b = |r, n| builder().rank(r).size(n).store(store.clone());
        let errors: Vec<Error> = std::thread::scope(|s| {
            // In the last case (`guilty` is 9), the group of one rank succeeds, and the rank that expects two ranks
            // gets an error at its deadline.
            let timeout = if guilty == 9 { SHORT } else { LONG };
            let others: Vec<_> = ranks[1..]
                .iter()
                .map(|&(r, n)| s.spawn(move || b(r, n).timeout(timeout).build().unwrap_err()))
                .collect();
            for (r, _) in &ranks[1..] {
                store.wait(&[&format!("group/default/hello/{r}")], soon()).unwrap();
            }
            let leader = b(ranks[0].0, ranks[0].1).build();
            assert_eq!(leader.is_ok(), guilty == 9);
            leader.err().into_iter().chain(others.into_iter().map(|t| t.join().unwrap())).collect()
        });
        assert!(start.elapsed() < LONG, "waited for the deadline");
        errors.iter().for_each(|e| assert_eq!(field(e), "world_size", "{e}"));
        let leader = errors.first().filter(|_| guilty != 9);
        assert!(leader.is_none_or(|e| e.report().guilty == [guilty]), "{leader:?}");
        assert_eq!(errors.last().unwrap().report().guilty, [0]);
    }
}

#[test]
fn two_processes_with_one_rank_get_errors() {
    for rank in [0, 1] {
        let errors: Vec<Error> = build(&Arc::default(), SHORT * 2, &[(rank, 3), (rank, 3), (2, 3)])
            .into_iter()
            .filter_map(Result::err)
            .collect();
        assert!(!errors.is_empty());
    }
    // Two processes join as rank 1. The first gets an error while it waits for rank 0, and the second joins the group.
    let store = Arc::new(HashStore::new());
    let key = "group/default/hello/1";
    std::thread::scope(|s| {
        let b = |r| builder().rank(r).size(2).store(store.clone());
        let first = s.spawn(move || within(LONG / 2, || b(1).build().unwrap_err()));
        let greeting = store.get(key, soon()).unwrap();
        let second = s.spawn(move || b(1).build());
        while store.get(key, soon()).unwrap()[..16] == greeting[..16] {
            std::thread::yield_now();
        }
        let e = first.join().unwrap();
        assert!(e.to_string().contains("give each process its own rank") && e.report().guilty == [1], "{e}");
        b(0).build().unwrap();
        second.join().unwrap().unwrap();
    });
}

#[test]
fn invalid_ranks_and_sizes_are_rejected() {
    for (rank, size) in [(0, 0), (3, 3), (u32::MAX, 1)] {
        let e = builder().rank(rank).size(size).build().unwrap_err();
        assert_eq!(*e.kind(), ErrorKind::InvalidArgument);
    }
    assert!(builder().size(2).build().unwrap_err().to_string().contains("needs a store"));
    // The store has these keys, with values that another program wrote.
    let store = Arc::new(HashStore::new());
    for key in ["hello/1", "session/0"] {
        store.set(&format!("group/default/{key}"), b"\xff\xfe", soon()).unwrap();
    }
    let e = build(&store, SHORT, &[(0, 2)]).remove(0).unwrap_err();
    assert_eq!(e.report().guilty, [1], "{e}");
    build(&store, LONG, &[(1, 2), (0, 2)]).into_iter().for_each(|r| drop(r.unwrap()));
}
