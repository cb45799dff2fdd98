//! Groups: many groups, groups that are used at the same time, groups of some ranks, and ways in which groups end.

use crate::jobs;

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use c10d::{ErrorKind, ProcessGroup, ReduceOp, Result, op};

/// A time limit that only a hang reaches.
const CAP: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + CAP
}

fn sum(pg: &ProcessGroup, count: usize) -> Result<u32> {
    let mut x = vec![1 + pg.rank(); count];
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    assert!(x.iter().all(|v| *v == x[0]));
    Ok(x[0])
}

/// Returns the result of [`sum`] in a group of `n` ranks.
fn total(n: u32) -> u32 {
    n * (n + 1) / 2
}

/// Runs `body` on a new thread, and fails if it does not return.
fn returns<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    std::thread::spawn(move || done.send(body()));
    wait.recv_timeout(CAP).expect("this must return")
}

#[test]
fn split_divides_by_color_and_numbers_by_key() {
    c10d::run_ranks(5, |pg| {
        let me = pg.rank();
        // The even ranks are in reverse order, and rank 3 is in no group.
        let color = if me == 3 { None } else { Some(me % 2) };
        let group = pg.split(color, 10 - me)?;
        match (me, group) {
            (3, None) => {}
            (1, Some(alone)) => assert_eq!((alone.rank(), alone.size(), sum(&alone, 9)?), (0, 1, 1)),
            (_, Some(group)) => {
                assert_eq!((group.rank(), group.size()), ((4 - me) / 2, 3));
                assert_eq!(group.global_rank(0), Some(4));
                assert_eq!(sum(&group, 5000)?, total(3));
            }
            (_, None) => panic!("rank {me} must be in a group"),
        }
        pg.barrier()
    })
    .unwrap();
}

#[test]
fn new_group_takes_any_order_and_nests() {
    c10d::run_ranks(4, |pg| {
        let group = pg.new_group(&[3, 0, 2])?;
        assert_eq!(group.as_ref().map(|g| g.rank()), [Some(1), None, Some(2), Some(0)][pg.rank() as usize]);
        if let Some(group) = &group {
            let mut x = [pg.rank()];
            group.broadcast(&mut x, 0)?;
            assert_eq!(x, [3]);
            if let Some(pair) = group.new_group(&[2, 0])? {
                // The global ranks are those of the outermost group.
                assert_eq!((pair.global_rank(0), pair.global_rank(1)), (Some(2), Some(3)));
                assert_eq!(sum(&pair, 3)?, total(2));
            }
        }
        for nonsense in [&[][..], &[0, 0], &[4]] {
            assert_eq!(*pg.new_group(nonsense).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        pg.barrier()
    })
    .unwrap();
}

#[test]
fn sub_groups_can_be_used_from_several_threads() {
    c10d::run_ranks(4, |pg| {
        let groups: Vec<ProcessGroup> =
            (0..6).map(|_| Ok(pg.new_group(&[0, 1, 2, 3])?.expect("all are members"))).collect::<Result<_>>()?;
        let pair = pg.split(Some(pg.rank() / 2), 0)?.expect("all are members");
        std::thread::scope(|s| {
            for (i, group) in groups.iter().enumerate() {
                s.spawn(move || {
                    for round in 0..40 {
                        assert_eq!(sum(group, 1 + (i * 997 + round) % 3000).unwrap(), total(4));
                    }
                });
            }
            for _ in 0..40 {
                assert_eq!(sum(&pair, 100).unwrap(), total(2));
                assert_eq!(sum(&pg, 10).unwrap(), total(4));
            }
        });
        Ok(())
    })
    .unwrap();
}

#[test]
fn many_groups_can_be_used_at_once() {
    c10d::run_ranks(2, |pg| {
        let groups: Vec<ProcessGroup> =
            (0..100).map(|_| Ok(pg.new_group(&[0, 1])?.expect("all are members"))).collect::<Result<_>>()?;
        let works: Vec<_> =
            groups.iter().map(|g| g.start(op::all_reduce(vec![1 + g.rank(); 50], ReduceOp::Sum))).collect();
        for work in works {
            assert_eq!(work.wait()?, [3; 50]);
        }
        groups.into_iter().rev().try_for_each(ProcessGroup::shutdown)
    })
    .unwrap();
}

#[test]
fn independent_groups_of_one_process_run_at_once() {
    std::thread::scope(|s| {
        for n in 1..6 {
            s.spawn(move || {
                let sums = c10d::run_ranks(n, |pg| sum(&pg, 1000)).unwrap();
                assert_eq!(sums, vec![total(n); n as usize]);
            });
        }
    });
}

#[test]
fn abort_ends_what_is_in_flight_on_all_ranks() {
    let errors = returns(|| {
        c10d::run_ranks(3, |pg| {
            let e = match pg.rank() {
                // This rank waits in an op, with another op queued after it.
                0 => {
                    let work = pg.start(op::all_reduce(vec![0f32; 8], ReduceOp::Sum));
                    let behind = pg.start(op::barrier(c10d::options::BarrierOptions::default()));
                    pg.store().set("0 waits", b"", soon())?;
                    let e = work.wait().unwrap_err().error;
                    assert_eq!(behind.wait().unwrap_err().error.kind(), e.kind());
                    e
                }
                1 => {
                    pg.store().set("1 waits", b"", soon())?;
                    pg.barrier().unwrap_err()
                }
                _ => {
                    pg.store().wait(&["0 waits", "1 waits"], soon())?;
                    pg.abort("enough");
                    pg.barrier().unwrap_err()
                }
            };
            // Later calls return the first error.
            assert_eq!(pg.barrier().unwrap_err().kind(), e.kind());
            Ok(e)
        })
        .unwrap()
    });
    for (rank, e) in errors.iter().enumerate() {
        // Ranks 0 and 1 also disagree about the op. Both get the error that is found first.
        let disagree = rank < 2 && matches!(e.kind(), ErrorKind::Mismatch { .. });
        assert!(*e.kind() == ErrorKind::Aborted || disagree, "rank {rank}: {e}");
    }
}

#[test]
fn an_abort_reaches_the_peers_and_names_its_rank() {
    let errors = returns(|| {
        c10d::run_ranks(2, |pg| {
            if pg.rank() == 1 {
                pg.store().get("waits", soon())?;
                pg.abort("enough");
                return Ok(pg.barrier().unwrap_err());
            }
            let work = pg.start(op::barrier(c10d::options::BarrierOptions::default()));
            pg.store().set("waits", b"", soon())?;
            Ok(work.wait().unwrap_err().error)
        })
        .unwrap()
    });
    for e in &errors {
        assert_eq!(*e.kind(), ErrorKind::Aborted, "{e}");
        assert_eq!(e.report().guilty, [1], "{e}");
    }
}

#[test]
fn shutdown_waits_for_what_is_in_flight() {
    returns(|| {
        c10d::run_ranks(2, |pg| {
            let later = pg.clone();
            let works: Vec<_> = (0..10).map(|_| pg.start(op::all_reduce(vec![1u8; 100_000], ReduceOp::Sum))).collect();
            pg.shutdown()?;
            for work in works {
                assert!(work.is_done());
                assert_eq!(work.wait()?, vec![2u8; 100_000]);
            }
            assert_eq!(*later.barrier().unwrap_err().kind(), ErrorKind::Shutdown);
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn shutdown_right_after_the_last_op_disturbs_no_peer() {
    returns(|| {
        for round in 0..30 {
            c10d::run_ranks(4, |pg| {
                let mut x = vec![1f32; [3, 3000, 200_000][round % 3]];
                pg.all_reduce(&mut x, ReduceOp::Sum)?;
                pg.broadcast(&mut x, round as u32 % 4)?;
                pg.shutdown()
            })
            .unwrap();
        }
    });
}

#[test]
fn dropping_groups_in_flight_returns() {
    returns(|| {
        for _ in 0..10 {
            c10d::run_ranks(3, |pg| {
                drop(pg.start(op::all_reduce(vec![1u8; 300_000], ReduceOp::Sum)));
                drop(pg.start(op::all_reduce(vec![1u8; 3], ReduceOp::Sum)));
                drop(pg);
                Ok(())
            })
            .unwrap();
        }
    });
}

#[test]
fn a_rank_that_leaves_early_is_named() {
    let errors = returns(|| {
        c10d::run_ranks(3, |pg| {
            pg.barrier()?;
            if pg.rank() == 2 { Ok(None) } else { Ok(Some(pg.barrier().unwrap_err())) }
        })
        .unwrap()
    });
    for e in errors.iter().flatten() {
        assert!(matches!(e.kind(), ErrorKind::PeerDead { .. }), "{e}");
        assert_eq!(e.report().guilty, [2], "{e}");
    }
}

#[test]
fn a_missing_rank_is_named_when_the_group_is_made() {
    let store = std::sync::Arc::new(c10d::HashStore::new());
    let begin = Instant::now();
    let builder = c10d::builder().rank(0).size(2).store(store).timeout(Duration::from_millis(300));
    let e = builder.build().unwrap_err();
    assert_eq!(e.report().guilty, [1], "{e}");
    assert!(begin.elapsed() < CAP);
}

#[test]
fn all_of_this_works_over_tcp() {
    jobs::again_over_tcp("all_of_this_works_over_tcp");
}
