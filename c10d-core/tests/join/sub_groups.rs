//! Tests groups of some ranks of another group.

use std::sync::Barrier;

use super::*;

#[test]
fn new_group_and_split_number_the_ranks() {
    let seen = builder().run_ranks(6, |pg| {
        let evens = pg.new_group(&[4, 2, 0])?;
        let all = pg.new_group(&[0, 1, 2, 3, 4, 5])?.unwrap();
        let third = pg.split(Some(pg.rank() % 3), 10 - pg.rank())?.unwrap();
        let some = pg.split((pg.rank() > 3).then_some(0), 0)?;
        assert_eq!(evens.is_some(), pg.rank() % 2 == 0);
        assert_eq!((all.rank(), all.size()), (pg.rank(), 6));
        if let Some(g) = &evens {
            assert_eq!((g.size(), g.global_rank(g.rank())), (3, Some(pg.rank())));
            assert_eq!(g.rank(), 2 - pg.rank() / 2);
            let inner = g.new_group(&[1, 2])?;
            assert_eq!(inner.map(|i| i.global_rank(0)), (g.rank() > 0).then_some(Some(2)));
            g.barrier()?;
        }
        assert_eq!((third.size(), third.global_rank(third.rank())), (2, Some(pg.rank())));
        assert_eq!(third.rank(), u32::from(pg.rank() < 3), "a lower key comes first");
        assert_eq!(some.map(|g| (g.rank(), g.size())), (pg.rank() > 3).then(|| (pg.rank() - 4, 2)));
        Ok((pg.rank(), third.name().to_owned()))
    });
    let seen = seen.unwrap();
    assert!(seen.iter().map(|s| s.0).eq(0..6));
    assert_eq!(seen[0].1, seen[3].1);
    assert_ne!(seen[0].1, seen[1].1);
}

#[test]
fn many_groups_at_once() {
    builder()
        .run_ranks(3, |pg| {
            let groups: Vec<_> = (0..4).map(|_| pg.new_group(&[0, 1, 2]).map(Option::unwrap)).collect::<Result<_>>()?;
            std::thread::scope(|s| {
                groups.iter().map(|g| s.spawn(|| g.barrier())).for_each(|t| t.join().unwrap().unwrap())
            });
            Ok(())
        })
        .unwrap();
    // Groups with different names can use one store.
    let store = Arc::new(HashStore::new());
    std::thread::scope(|s| {
        for (name, rank) in ["a", "b", "c"].into_iter().flat_map(|n| [(n, 0), (n, 1)]) {
            let b = builder().name(name).rank(rank).size(2).store(store.clone());
            s.spawn(move || assert_eq!(b.build().unwrap().name(), name));
        }
    });
}

/// The store fails if a key has more than 1024 bytes.
#[test]
fn keys_stay_short_for_nested_groups_and_long_names() {
    let store = keeps(Arc::default(), Duration::ZERO);
    let depth = std::thread::scope(|scope| {
        let nest = |rank: u32| {
            let first = builder().timeout(LONG).rank(rank).size(2).store(store.clone()).name(&"name".repeat(2000));
            let mut group = first.build().unwrap();
            for level in 0..100 {
                let next = if level % 2 == 0 { group.new_group(&[0, 1]) } else { group.split(Some(0), rank) };
                group = next.unwrap_or_else(|e| panic!("level {level}: {e}")).unwrap();
            }
            group.store().set("k", b"", soon()).unwrap();
            group.name().matches('/').count()
        };
        let other = scope.spawn(move || nest(1));
        (nest(0), other.join().unwrap())
    });
    assert_eq!(depth, (100, 100));
}

#[test]
fn different_member_lists_are_a_mismatch() {
    let lists: [[&[u32]; 3]; 4] = [
        [&[0, 1], &[1, 0], &[0, 1]],
        [&[0, 1], &[0, 1, 2], &[0, 1, 2]],
        [&[0, 1, 2], &[0, 1], &[0, 1, 2]],
        [&[0, 1, 2], &[0, 2, 1], &[0, 1, 2]],
    ];
    for case in lists {
        let errors = within(LONG, || {
            builder().run_ranks(3, |pg| {
                Ok(match pg.new_group(case[pg.rank() as usize]) {
                    Ok(None) => None,
                    Ok(Some(_)) => panic!("{case:?}: rank {} has a group", pg.rank()),
                    Err(e) => Some(e),
                })
            })
        });
        for (rank, e) in errors.unwrap().into_iter().enumerate().filter_map(|(r, e)| Some((r, e?))) {
            assert_eq!(field(&e), "members", "{case:?}, rank {rank}: {e}");
            assert!(!e.report().guilty_global.is_empty() && !e.report().guilty_global.contains(&(rank as u32)), "{e}");
        }
    }
}

#[test]
fn impossible_sub_groups_are_errors() {
    builder()
        .timeout(SHORT * 2)
        .run_ranks(2, |pg| {
            for list in [&[][..], &[0, 2], &[1, 1]] {
                let e = pg.new_group(list).unwrap_err();
                assert_eq!((e.kind(), e.report().rank), (&ErrorKind::InvalidArgument, Some(pg.rank())));
            }
            if pg.rank() == 1 {
                let e = pg.new_group(&[0, 1]).unwrap_err();
                assert_eq!((&*e.report().guilty, &*e.report().guilty_global), (&[0][..], &[0][..]), "{e}");
                let e = pg.split(Some(0), 0).unwrap_err();
                assert_eq!(e.report().guilty, [0], "{e}");
                pg.abort("done");
                assert_eq!(*pg.split(Some(0), 0).unwrap_err().kind(), ErrorKind::Aborted);
            }
            Ok(())
        })
        .unwrap();
}

/// The group's own timeout is so long that only the sub-group's can end the wait for the missing rank.
#[test]
fn a_sub_group_can_have_its_own_timeout() {
    let over = Barrier::new(2);
    builder()
        .timeout(Duration::from_secs(3600))
        .run_ranks(2, |pg| {
            let both = within(LONG, || pg.new_group_within(&[0, 1], LONG))?.unwrap();
            assert_eq!((both.timeout(), pg.timeout()), (LONG, Duration::from_secs(3600)));
            if pg.rank() == 0 {
                let e = within(LONG, || pg.new_group_within(&[0, 1], SHORT)).unwrap_err();
                assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Rendezvous, &[1][..]), "{e}");
            }
            over.wait();
            Ok(())
        })
        .unwrap();
}

/// Makes sub-groups of a group whose backends report lost ranks.
#[test]
fn making_a_group_does_not_wait_for_dead_ranks() {
    let gone: Arc<Mutex<Vec<u32>>> = Arc::default();
    // How often the group of each rank has asked its backend for lost ranks.
    let looks: Arc<[AtomicUsize; 5]> = Arc::default();
    let (lost, looked) = (gone.clone(), looks.clone());
    let builder = common::builder(move |init| {
        let (lost, looked, rank) = (lost.clone(), looked.clone(), init.rank as usize);
        puppet(|job| job.complete(Ok(()))).losing(move || {
            looked[rank].fetch_add(1, Ordering::Relaxed);
            lost.lock().unwrap().clone()
        })
    });
    let builder = builder.timeout(LONG);
    type Make = fn(&ProcessGroup) -> Result;
    let ways: [(&str, Make); 3] = [
        ("shrink", |pg| pg.shrink(&[1]).map(drop)),
        ("new_group", |pg| pg.new_group(&[4, 3, 2, 0]).map(drop)),
        ("split", |pg| pg.split(Some(0), 0).map(drop)),
    ];
    let together = Barrier::new(2);
    builder
        .run_ranks(5, |pg| {
            for (way, make) in ways.into_iter().filter(|_| pg.rank() == 0 || pg.rank() == 4) {
                // The backends report the lost ranks from the start, or only after ranks 0 and 4 have begun to wait.
                for late in [false, true] {
                    together.wait();
                    if pg.rank() == 0 {
                        *gone.lock().unwrap() = if late { vec![] } else { vec![1, 2, 3] };
                    }
                    together.wait();
                    let start = Instant::now();
                    let all_looks = || [0, 4].map(|rank: usize| looks[rank].load(Ordering::Relaxed));
                    let before = all_looks();
                    std::thread::scope(|s| {
                        s.spawn(|| {
                            if late {
                                let waits = |now, before| now > before + 2;
                                until("both ranks wait", || {
                                    all_looks().into_iter().zip(before).all(|(n, b)| waits(n, b))
                                });
                            }
                            *gone.lock().unwrap() = vec![1, 2, 3];
                        });
                        let e = make(&pg).unwrap_err();
                        let dead: &[u32] = if way == "split" || pg.failure().is_some() { &[1, 2, 3] } else { &[2, 3] };
                        let how = format!("{way}, late {late}, rank {}: {e}", pg.rank());
                        assert!(matches!(e.kind(), ErrorKind::PeerDead { .. }), "{how}");
                        assert_eq!(e.report().guilty, dead, "{how}");
                        assert_eq!((e.report().rank, e.report().group.as_deref()), (Some(pg.rank()), Some("default")));
                    });
                    assert!(start.elapsed() < LONG / 3, "{way}: waited for ranks that are gone");
                }
            }
            Ok(())
        })
        .unwrap();
}

/// Only rank 0 has noticed that ranks 1 and 2 died. Rank 5 is alive, but calls `shrink_to_survivors` too late.
#[test]
fn survivors_agree_on_who_they_are() {
    let lost = |rank: u32| move || if rank == 0 { vec![1, 2] } else { vec![] };
    let builder = common::builder(move |init| puppet(|job| job.complete(Ok(()))).losing(lost(init.rank)));
    let over = Barrier::new(4);
    let seen = builder.timeout(LONG).run_ranks(6, |pg| match pg.rank() {
        1 | 2 => Ok(None),
        // This rank calls `shrink_to_survivors` after the time limit of the others.
        5 => {
            over.wait();
            Ok(Some(pg.shrink_to_survivors(SHORT).map(|rest| rest.size())))
        }
        _ => within(LONG / 3, || {
            let rest = pg.shrink_to_survivors(SHORT);
            over.wait();
            let rest = rest?;
            assert_eq!((0..3).filter_map(|r| rest.global_rank(r)).collect::<Vec<_>>(), [0, 3, 4]);
            Ok(Some(Ok(rest.size())))
        }),
    });
    for (rank, result) in (0..).zip(seen.unwrap()) {
        match (rank, result) {
            (1 | 2, None) | (0 | 3 | 4, Some(Ok(3))) => {}
            (5, Some(Err(e))) => assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Rendezvous, &[0, 3, 4][..])),
            (_, other) => panic!("rank {rank}: {other:?}"),
        }
    }
}
