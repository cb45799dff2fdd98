//! Tests in which ranks find each other, or get errors that name the missing ranks.

use crate::common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use c10d_core::{Builder, Error, ErrorKind, HashStore, Phase, PrefixStore, ProcessGroup, Result, Store};
use common::{puppet, within};

const HANG: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(15);
const SHORT: Duration = Duration::from_millis(400);

fn builder() -> Builder {
    common::builder(|_| puppet(|job| job.complete(Ok(())))).timeout(LONG)
}

fn soon() -> Instant {
    Instant::now() + LONG
}

/// Builds the groups of these pairs of rank and size at once over one store.
fn build(store: &Arc<HashStore>, timeout: Duration, ranks: &[(u32, u32)]) -> Vec<Result<ProcessGroup>> {
    std::thread::scope(|s| {
        let b = |r, n| builder().timeout(timeout).rank(r).size(n).store(store.clone());
        let threads: Vec<_> = ranks.iter().map(|&(r, n)| s.spawn(move || b(r, n).build())).collect();
        within(HANG, || threads.into_iter().map(|t| t.join().unwrap()).collect())
    })
}

fn field(e: &Error) -> &'static str {
    match e.kind() {
        ErrorKind::Mismatch { field, .. } => field,
        other => panic!("{other:?}: {e}"),
    }
}

/// Makes a store with the keys of an earlier run that was killed before it could delete them.
fn used_store(size: u32) -> Arc<HashStore> {
    let store = Arc::new(HashStore::new());
    let keeps: Arc<dyn Store> = Arc::new(Keeps(store.clone(), Duration::ZERO));
    std::thread::scope(|s| {
        for r in 0..size {
            let b = builder().timeout(5 * SHORT).rank(r).size(size).store(keeps.clone());
            s.spawn(move || b.build().unwrap());
        }
    });
    assert!(store.check(&[&format!("group/default/hello/{}", size - 1)], soon()).unwrap());
    store
}

/// A store in which nothing is deleted, and in which a check takes this long.
struct Keeps(Arc<HashStore>, Duration);

impl Store for Keeps {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        if key.len() > 1024 {
            return Err(Error::new(ErrorKind::Store, format!("a key of {} bytes", key.len())));
        }
        self.0.set(key, value, deadline)
    }
    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.0.get(key, deadline)
    }
    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.0.wait(keys, deadline)
    }
    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.0.add(key, delta, deadline)
    }
    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.0.compare_set(key, expected, desired, deadline)
    }
    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.0.append(key, value, deadline)
    }
    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        sleep(self.1.min(left));
        if left < self.1 {
            return Err(Error::new(ErrorKind::Store, "timed out: the store does not answer"));
        }
        self.0.check(keys, deadline)
    }
    fn delete(&self, _: &str, _: Instant) -> Result<bool> {
        Ok(false)
    }
    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.0.num_keys(deadline)
    }
    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.0.multi_get(keys, deadline)
    }
    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        self.0.multi_set(pairs, deadline)
    }
}

/// On a busy machine a store may need longer for an answer than a rank waits for the others between two looks.
#[test]
fn a_store_that_answers_slowly_is_no_failure() {
    let store: Arc<dyn Store> = Arc::new(Keeps(Arc::default(), Duration::from_millis(700)));
    std::thread::scope(|s| {
        for r in 0..2 {
            let b = builder().rank(r).size(2).store(store.clone());
            s.spawn(move || {
                sleep(SHORT * r);
                within(HANG, || b.build().unwrap());
            });
        }
    });
}

#[test]
fn missing_ranks_are_named_by_all_that_came() {
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
fn the_patient_are_told() {
    let store = Arc::new(HashStore::new());
    std::thread::scope(|s| {
        let b = |r| builder().rank(r).size(3).store(store.clone());
        let patient = s.spawn(move || within(Duration::from_secs(10), || b(1).build().unwrap_err()));
        while !store.check(&["group/default/hello/1"], soon()).unwrap() {
            std::thread::yield_now();
        }
        let leader = b(0).timeout(SHORT).build().unwrap_err();
        let told = patient.join().unwrap();
        assert_eq!((&*leader.report().guilty, &*told.report().guilty), (&[2][..], &[2][..]), "{told}");
    });
}

#[test]
fn world_sizes_that_differ() {
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
            // The group of one rank succeeds; the rank that expects two gets an error at its deadline.
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
fn keys_of_an_earlier_run() {
    for earlier in [1, 2, 3, 5] {
        // All ranks join, some of them late.
        let store = used_store(earlier);
        std::thread::scope(|s| {
            for r in 0..3 {
                let b = builder().rank(r).size(3).store(store.clone());
                s.spawn(move || {
                    sleep(Duration::from_millis(u64::from((r * 2) % 3) * 150));
                    within(HANG, || b.build()).unwrap_or_else(|e| panic!("after a run of {earlier}, rank {r}: {e}"));
                });
            }
        });
        // One rank does not join. Only this rank is named, although the store has a key of it.
        let store = used_store(earlier);
        for result in build(&store, SHORT * 2, &[(0, 3), (1, 3)]) {
            let e = result.unwrap_err();
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Rendezvous, &[2][..]), "after {earlier}: {e}");
        }
    }
    // A failure of an earlier run is ignored.
    let store = Arc::new(HashStore::new());
    build(&store, SHORT, &[(0, 2)])[0].as_ref().unwrap_err();
    for result in build(&store, LONG, &[(0, 2), (1, 2)]) {
        result.unwrap();
    }
}

/// Ranks that wait are not named as missing. Keys of an earlier run do not change, so their ranks are named.
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

/// The ranks do not wait for each other between rounds, so some are one round ahead.
#[test]
fn again_and_again_over_one_store() {
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
    assert_eq!(store.num_keys(soon()).unwrap(), 0, "keys stay behind");
}

/// Builds groups of some ranks while their common group knows of ranks that are gone.
#[test]
fn nobody_waits_for_the_dead() {
    let gone: Arc<Mutex<Vec<u32>>> = Arc::default();
    let lost = gone.clone();
    let builder = common::builder(move |_| puppet(|job| job.complete(Ok(()))).losing(&lost)).timeout(LONG);
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
                // The lost ranks are known from the start, or only when the other ranks already wait.
                for late in [false, true] {
                    together.wait();
                    if pg.rank() == 0 {
                        *gone.lock().unwrap() = if late { vec![] } else { vec![1, 2, 3] };
                    }
                    together.wait();
                    let start = Instant::now();
                    std::thread::scope(|s| {
                        s.spawn(|| {
                            sleep(Duration::from_millis(250));
                            *gone.lock().unwrap() = vec![1, 2, 3];
                        });
                        let e = make(&pg).unwrap_err();
                        let dead: &[u32] = if way == "split" || pg.failure().is_some() { &[1, 2, 3] } else { &[2, 3] };
                        let how = format!("{way}, late {late}, rank {}: {e}", pg.rank());
                        assert!(matches!(e.kind(), ErrorKind::PeerDead { .. }), "{how}");
                        assert_eq!(e.report().guilty, dead, "{how}");
                        assert_eq!((e.report().rank, e.report().group.as_deref()), (Some(pg.rank()), Some("default")));
                    });
                    assert!(start.elapsed() < LONG / 3, "{way}: waited for the dead");
                }
            }
            Ok(())
        })
        .unwrap();
}

/// Each rank knows of different deaths, and one rank is alive but joins too late.
#[test]
fn survivors_agree_on_who_they_are() {
    let lost = |rank: u32| Arc::new(Mutex::new(if rank == 0 { vec![1, 2] } else { vec![] }));
    let builder = common::builder(move |init| puppet(|job| job.complete(Ok(()))).losing(&lost(init.rank)));
    let seen = builder.timeout(LONG).run_ranks(6, |pg| match pg.rank() {
        1 | 2 => Ok(None),
        // It joins after the timeout.
        5 => {
            sleep(4 * SHORT);
            Ok(Some(pg.shrink_to_survivors(SHORT).map(|rest| rest.size())))
        }
        _ => within(LONG / 3, || {
            let rest = pg.shrink_to_survivors(SHORT)?;
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

#[test]
fn a_rank_used_twice() {
    for rank in [0, 1] {
        let errors: Vec<Error> = build(&Arc::default(), SHORT * 2, &[(rank, 3), (rank, 3), (2, 3)])
            .into_iter()
            .filter_map(Result::err)
            .collect();
        assert!(!errors.is_empty());
    }
    // The process that came first gets an error while it waits. The second process joins as this rank.
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
fn nonsense_is_refused() {
    for (rank, size) in [(0, 0), (3, 3), (u32::MAX, 1)] {
        let e = builder().rank(rank).size(size).build().unwrap_err();
        assert_eq!(*e.kind(), ErrorKind::InvalidArgument);
    }
    assert!(builder().size(2).build().unwrap_err().to_string().contains("needs a store"));
    // The values of the keys are data of another program.
    let store = Arc::new(HashStore::new());
    for key in ["hello/1", "session/0"] {
        store.set(&format!("group/default/{key}"), b"\xff\xfe", soon()).unwrap();
    }
    let e = build(&store, SHORT, &[(0, 2)]).remove(0).unwrap_err();
    assert_eq!(e.report().guilty, [1], "{e}");
    build(&store, LONG, &[(1, 2), (0, 2)]).into_iter().for_each(|r| drop(r.unwrap()));
}

#[test]
fn new_groups_and_splits() {
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

/// Stores limit the length of keys.
#[test]
fn keys_stay_short_however_deep_groups_are_nested_and_long_their_names() {
    let store = Arc::new(Keeps(Arc::default(), Duration::ZERO));
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
fn member_lists_that_differ() {
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
fn sub_groups_that_cannot_be() {
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

#[test]
fn run_ranks_tells_the_cause() {
    assert_eq!(builder().run_ranks(4, |pg| Ok(pg.rank() * 10)).unwrap(), [0, 10, 20, 30]);
    // The other ranks report the end of the failed rank, with its own error as the cause.
    let died = AtomicUsize::new(0);
    let e = builder().run_ranks(3, |pg| -> Result {
        if pg.rank() == 2 {
            died.store(1, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::Resource, "no more memory"));
        }
        while died.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        Err(Error::new(ErrorKind::PeerDead { how: "left".into() }, "").guilty([2]))
    });
    assert_eq!(*e.unwrap_err().kind(), ErrorKind::Resource);
    let panicked = std::panic::catch_unwind(|| {
        builder().run_ranks(2, |pg| if pg.rank() == 1 { panic!("rank 1 fell over") } else { Ok(()) })
    });
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"rank 1 fell over"));
    assert_eq!(*builder().run_ranks(0, |_| Ok(())).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn stores() {
    let base = Arc::new(HashStore::new());
    let a = PrefixStore::new("a", base.clone());
    let now = Instant::now();
    a.set("k", b"1", now).unwrap();
    assert_eq!(base.get("a/k", now).unwrap(), b"1");
    assert_eq!((a.add("n", 5, now).unwrap(), a.add("n", -7, now).unwrap()), (5, -2));
    assert_eq!(*a.add("k2", i64::MAX, now).and_then(|_| a.add("k2", 1, now)).unwrap_err().kind(), ErrorKind::Store);
    a.append("k", b"23", now).unwrap();
    assert_eq!(a.compare_set("k", b"123", b"x", now).unwrap(), b"x");
    assert_eq!(a.compare_set("k", b"no", b"y", now).unwrap(), b"x");
    assert_eq!(a.compare_set("new", b"", b"z", now).unwrap(), b"z");
    assert_eq!(a.compare_set("newer", b"e", b"z", now).unwrap(), b"e");
    assert!(!a.check(&["k", "newer"], now).unwrap());
    a.multi_set(&[("p", b"1"), ("q", b"2")], now).unwrap();
    assert_eq!(a.multi_get(&["q", "p"], now).unwrap(), [b"2", b"1"]);
    assert!(a.delete("p", now).unwrap() && !a.delete("p", now).unwrap());
    let e = a.wait(&["q", "never"], now + Duration::from_millis(10)).unwrap_err();
    assert!(e.to_string().contains("a/never") && !e.to_string().contains("a/q"), "{e}");
}
