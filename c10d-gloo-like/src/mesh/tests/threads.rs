//! Ranks as threads of this process, over shared memory (auto) and over sockets with the watcher (tcp).

use super::*;
use c10d_core::HashStore;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Runs `f` for each rank, on its own thread, with its mesh.
fn run<R: Send>(size: u32, transport: Transport, f: impl Fn(u32, Mesh) -> R + Sync) -> Vec<R> {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    std::thread::scope(|s| {
        let rank = |rank| {
            let (store, f) = (store.clone(), &f);
            s.spawn(move || f(rank, Mesh::connect(wiring(rank, size, store, transport)).unwrap()))
        };
        let ranks: Vec<_> = (0..size).map(rank).collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

const BOTH: [Transport; 2] = [Transport::Auto, Transport::Tcp];

#[test]
fn every_pair_is_connected() {
    for transport in [Transport::Auto, Transport::Shm, Transport::Tcp] {
        for size in 1..=5 {
            let topologies = run(size, transport, |rank, mut mesh| {
                assert_eq!(mesh.collective.iter().filter(|l| l.is_none()).count(), 1);
                assert!(mesh.collective[rank as usize].is_none() && mesh.p2p[rank as usize].is_none());
                talk(&mut mesh, rank);
                mesh.topology.clone()
            });
            assert!(topologies.iter().all(|t| *t == topologies[0]));
            assert_eq!(topologies[0].is_shared(), transport != Transport::Tcp || size == 1);
            assert_eq!(topologies[0].host_count(), 1);
        }
    }
}

/// Binds this thread to one of the cores that it may use.
fn bind(number: usize) {
    let allowed = sched_getaffinity(None).unwrap();
    let core = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(number).unwrap();
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one).unwrap();
}

/// A launcher may bind each rank to one core. Such ranks oversubscribe their host only if they are bound to the same
/// core.
#[test]
fn a_host_is_oversubscribed_only_if_its_ranks_have_fewer_cores_together() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let oversubscribed = |on: fn(u32) -> usize| -> Vec<bool> {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        std::thread::scope(|s| {
            let rank = |rank| {
                let store = store.clone();
                s.spawn(move || {
                    bind(on(rank));
                    Mesh::connect(wiring(rank, 2, store, Transport::Auto)).unwrap().oversubscribed
                })
            };
            let ranks: Vec<_> = (0..2).map(rank).collect();
            ranks.into_iter().map(|r| r.join().unwrap()).collect()
        })
    };
    assert_eq!(oversubscribed(|_| 0), [true, true]);
    if cores < 2 {
        eprintln!("skipped: one core, but two are needed to bind each rank to a core of its own");
        return;
    }
    assert_eq!(oversubscribed(|rank| rank as usize), [false, false]);
}

#[test]
fn a_failure_reaches_all_and_the_first_cause_stays() {
    for transport in BOTH {
        let causes = run(4, transport, |rank, mesh| {
            if rank == 2 {
                let error = Error::new(ErrorKind::Protocol, "odd bytes").guilty([3]);
                mesh.health.fail(error);
            }
            eventually("the failure", || mesh.health.failed());
            let again = mesh.health.fail(Error::new(ErrorKind::Internal, "later"));
            assert_eq!(again.report().what, mesh.health.cause().unwrap().report().what);
            assert!(mesh.health.announce(&call(0, 1)).is_err());
            again
        });
        for (rank, cause) in (0..).zip(causes) {
            assert_eq!(*cause.kind(), ErrorKind::Protocol, "{cause}");
            assert_eq!(cause.report().guilty, [if rank == 3 { 2 } else { 3 }]);
            assert_eq!((cause.report().rank, cause.report().group.as_deref()), (Some(rank), Some("g")));
        }
    }
}

#[test]
fn an_abort_names_the_rank_that_aborted() {
    for transport in BOTH {
        let causes = run(3, transport, |rank, mesh| {
            if rank == 1 {
                mesh.health.fail(Error::new(ErrorKind::Aborted, "enough"));
            }
            eventually("the abort", || mesh.health.failed());
            mesh.health.cause().unwrap()
        });
        let guilty: Vec<_> = causes.iter().map(|c| c.report().guilty.clone()).collect();
        assert_eq!(guilty, [vec![1], vec![], vec![1]]);
        assert!(causes.iter().all(|c| *c.kind() == ErrorKind::Aborted));
    }
}

#[test]
fn ranks_in_different_calls_get_a_mismatch() {
    for transport in BOTH {
        // Rank 1 calls with the count 2, all others with the count 1. Rank 3 makes its call after the mismatch was
        // reported.
        let causes = run(4, transport, |rank, mesh| {
            let fingerprint = call(0, if rank == 1 { 2 } else { 1 });
            if rank == 3 {
                eventually("the report of the mismatch", || mesh.health.disputed() || mesh.health.failed());
                assert!(mesh.health.announce(&fingerprint).is_err());
                return mesh.health.cause().unwrap();
            }
            let _ = mesh.health.announce(&fingerprint);
            eventually("the mismatch", || {
                mesh.health.stalled(&fingerprint);
                mesh.health.failed()
            });
            mesh.health.cause().unwrap()
        });
        for (rank, cause) in (0..).zip(&causes) {
            let ErrorKind::Mismatch { field, mine, theirs } = cause.kind() else { panic!("{cause}") };
            assert_eq!(*field, "count");
            let expected = if rank == 1 { ("2", "1") } else { ("1", "2") };
            assert_eq!((mine.as_str(), theirs.as_str()), expected, "rank {rank}: {cause}");
            assert_eq!(cause.report().guilty.contains(&1), rank != 1, "rank {rank}: {cause}");
            assert!(!cause.report().guilty.contains(&rank), "rank {rank} named itself: {cause}");
        }
    }
}

#[test]
fn a_mismatch_waits_for_the_ranks_that_have_not_called_yet() {
    for transport in BOTH {
        let told = std::sync::Barrier::new(3);
        let causes = run(3, transport, |rank, mesh| {
            let fingerprint = call(0, u64::from(rank == 1));
            if rank < 2 {
                mesh.health.announce(&fingerprint).unwrap();
            }
            told.wait();
            if rank == 0 {
                mesh.health.mismatch(1, &call(0, 0), &call(0, 1));
            }
            if rank < 2 {
                eventually("the mismatch", || mesh.health.failed());
            } else {
                // The report has arrived, but this rank could still agree with rank 0 or with rank 1.
                eventually("the report of the mismatch", || mesh.health.disputed());
                assert!(!mesh.health.failed());
                assert!(mesh.health.announce(&call(0, 1)).is_err());
            }
            told.wait();
            mesh.health.cause().unwrap()
        });
        let guilty: Vec<_> = causes.iter().map(|c| c.report().guilty.clone()).collect();
        assert_eq!(guilty, [[1], [0], [0]]);
    }
}

#[test]
fn an_absent_rank_is_named_by_all_that_wait() {
    for transport in BOTH {
        let done = std::sync::Barrier::new(4);
        let causes = run(4, transport, |rank, mesh| {
            for seq in 0..if rank == 2 { 3 } else { 4 } {
                mesh.health.announce(&call(seq, 1)).unwrap();
                if seq < 3 {
                    mesh.health.finish();
                }
            }
            done.wait();
            // Each rank waits for the next, and only rank 2 has not made the call.
            let cause = (rank != 2).then(|| mesh.health.timeout(&call(3, 1), &[(rank + 1) % 4]));
            done.wait();
            cause
        });
        for cause in causes.into_iter().flatten() {
            assert_eq!((cause.kind(), &cause.report().guilty[..]), (&ErrorKind::Timeout, &[2][..]), "{cause}");
            assert!(cause.report().what.contains("rank 2 has not called it: rank 2 is at seq 2"), "{cause}");
        }
    }
}

#[test]
fn leaving_fails_only_calls_that_need_the_rank() {
    for transport in BOTH {
        let met = std::sync::Barrier::new(3);
        run(3, transport, |rank, mesh| {
            mesh.health.announce(&call(0, 1)).unwrap();
            mesh.health.finish();
            if rank == 2 {
                drop(mesh);
                met.wait();
                return;
            }
            eventually("the goodbye", || mesh.health.has_left(2, CAP));
            assert!(!mesh.health.failed());
            mesh.health.needs(1 - rank, CAP).unwrap();
            met.wait();
            let error =
                if rank == 0 { mesh.health.needs(2, CAP) } else { mesh.health.announce(&call(1, 1)) }.unwrap_err();
            assert_eq!(error.report().guilty, [2], "{error}");
            assert_eq!(*error.kind(), ErrorKind::PeerDead { how: "left the group after seq 0".into() });
        });
    }
}

#[test]
fn a_panicking_rank_leaves() {
    for transport in BOTH {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        std::thread::scope(|s| {
            let theirs = store.clone();
            let rank1 = s.spawn(move || {
                let _mesh = Mesh::connect(wiring(1, 2, theirs, transport)).unwrap();
                std::panic::resume_unwind(Box::new("a rank's own bug"));
            });
            let mesh = Mesh::connect(wiring(0, 2, store, transport)).unwrap();
            eventually("the goodbye", || mesh.health.has_left(1, CAP));
            assert!(rank1.join().is_err());
            let error = mesh.health.announce(&call(0, 1)).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::PeerDead { how: "left the group before its first call".into() });
        });
    }
}

#[test]
fn sleepers_are_woken() {
    run(2, Transport::Auto, |rank, mesh| {
        let (tx, rx) = crossbeam_channel::bounded(8);
        mesh.health.on_news(Box::new(move || {
            let _full_is_fine = tx.try_send(());
        }));
        if rank == 0 {
            mesh.health.fail(Error::new(ErrorKind::Aborted, ""));
        }
        rx.recv_timeout(CAP).unwrap();
    });
}

/// Runs `how`, which must cut a connection between two ranks, on all ranks. Returns the error of each rank.
fn cut(size: u32, how: impl Fn(u32, &mut Mesh) + Sync) -> Vec<Error> {
    let done = std::sync::Barrier::new(size as usize);
    run(size, Transport::Tcp, |rank, mut mesh| {
        done.wait();
        how(rank, &mut mesh);
        eventually("the failure", || mesh.health.failed());
        done.wait();
        mesh.health.cause().unwrap()
    })
}

/// Checks that each rank's error names ranks 1 and 2, between which the connection was cut.
fn names_both_ends(causes: &[Error]) {
    let how = "the connection between ranks 1 and 2 was reset; both are alive".to_owned();
    for (rank, cause) in causes.iter().enumerate() {
        assert_eq!(*cause.kind(), ErrorKind::PeerDead { how: how.clone() }, "rank {rank}: {cause}");
        assert_eq!(cause.report().guilty, [1, 2], "rank {rank}: {cause}");
    }
}

#[test]
fn a_broken_data_connection_names_both_ends_on_all_ranks() {
    let causes = cut(4, |rank, mesh| {
        let peer = if rank == 1 { 2 } else { 1 };
        if rank == 1 {
            let link = mesh.collective[peer as usize].as_ref().unwrap();
            rustix::net::shutdown(link.fd().unwrap(), rustix::net::Shutdown::Both).unwrap();
        }
        if rank == 1 || rank == 2 {
            let link = mesh.collective[peer as usize].as_mut().unwrap();
            let mut ended = None;
            eventually("the end", || {
                ended = link.peek().err();
                ended.is_some()
            });
            let Some(ErrorKind::PeerDead { how }) = ended.map(|e| e.kind().clone()) else { panic!("no end") };
            mesh.health.lost(peer, &how);
        }
    });
    names_both_ends(&causes);
}

#[test]
fn a_broken_control_connection_is_distinguished_from_a_dead_peer() {
    let causes = cut(4, |rank, mesh| {
        if rank == 1 {
            mesh.health.cut(2);
        }
    });
    names_both_ends(&causes);
    // A group of two has no rank to ask. Each rank watches the other's process. That process has not ended, so the
    // other rank is alive.
    let causes = run(2, Transport::Tcp, |rank, mesh| {
        if rank == 1 {
            mesh.health.cut(0);
        }
        eventually("the failure", || mesh.health.failed());
        mesh.health.cause().unwrap()
    });
    for cause in &causes {
        assert!(
            cause.to_string().contains("the connection between ranks 0 and 1 was reset; both are alive"),
            "{cause}"
        );
    }
}

#[test]
fn announcing_a_call_is_timed() {
    let health = Health::new("g".into(), 0, 2, None);
    let (n, t) = (1_000_000u32, Instant::now());
    for seq in 0..n {
        health.announce(&call(seq, 1)).unwrap();
        health.finish();
    }
    println!("announce + finish: {:.1} ns", t.elapsed().as_nanos() as f64 / f64::from(n));
}
