//! Started ops: order, patience, and what becomes of handles.

mod stage;

use std::time::{Duration, Instant};

use c10d::{ErrorKind, ReduceOp, op};
use c10d_conformance::block_on;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Rank 0 starts an op and blocks on a second; rank 1 comes late to both.
#[test]
fn a_blocking_op_runs_after_those_started_before() {
    c10d::run_ranks(2, |pg| {
        for count in [4, 100_000] {
            if pg.rank() == 1 {
                std::thread::sleep(Duration::from_millis(50));
            }
            let works: Vec<_> =
                (0..5).map(|i| pg.start(op::all_reduce(vec![i + pg.rank() as i64; count], ReduceOp::Sum))).collect();
            let mut last = vec![100i64; count];
            pg.all_reduce(&mut last, ReduceOp::Sum)?;
            assert_eq!(last, vec![200; count]);
            for (i, work) in works.into_iter().enumerate() {
                assert!(work.is_done(), "op {i} must be over before the one behind it");
                assert_eq!(work.wait()?, vec![2 * i as i64 + 1; count]);
            }
        }
        Ok(())
    })
    .unwrap();
}

/// Ops of different kinds, started and blocking in turns; an order that differed between ranks would be a mismatch.
#[test]
fn started_and_blocking_ops_alternate() {
    c10d::run_ranks(3, |pg| {
        for i in 0..200u32 {
            let a = pg.start(op::broadcast(vec![pg.rank() + i; 9], i % 3));
            let mut sum = [1u32; 3];
            pg.all_reduce(&mut sum, ReduceOp::Sum)?;
            let b = pg.start(op::all_gather_into(vec![pg.rank()], vec![0u32; 3]));
            pg.barrier()?;
            assert!(a.is_done() && b.is_done());
            assert_eq!(a.wait()?, [i % 3 + i; 9]);
            assert_eq!(b.wait()?.1, [0, 1, 2]);
            assert_eq!(sum, [3; 3]);
        }
        Ok(())
    })
    .unwrap();
}

/// Rank 1 does nothing until rank 0 says that its `start`s have come back.
#[test]
fn start_returns_while_a_peer_is_away() {
    c10d::run_ranks(2, |pg| {
        let works: Vec<_> = if pg.rank() == 0 {
            let works = (0..10).map(|_| pg.start(op::all_reduce(vec![1f32; 200_000], ReduceOp::Sum))).collect();
            pg.store().set("started", b"", soon())?;
            works
        } else {
            pg.store().get("started", soon())?;
            (0..10).map(|_| pg.start(op::all_reduce(vec![1f32; 200_000], ReduceOp::Sum))).collect()
        };
        for work in works {
            assert_eq!(work.wait()?, vec![2f32; 200_000]);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn many_in_flight() {
    c10d::run_ranks(2, |pg| {
        let works: Vec<_> =
            (0..2000u32).map(|i| pg.start(op::all_reduce(vec![i; 1 + i as usize % 50], ReduceOp::Sum))).collect();
        for (i, work) in works.into_iter().enumerate().rev() {
            assert_eq!(work.wait()?, vec![2 * i as u32; 1 + i % 50]);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn awaited_on_a_bare_executor() {
    c10d::run_ranks(2, |pg| {
        let sum = |x: Vec<f64>| pg.start(op::all_reduce(x, ReduceOp::Sum));
        let (first, second) = (sum(vec![1.0; 5]), sum(vec![2.0; 50_000]));
        let both = block_on(async { (second.await, first.await) });
        assert_eq!((both.0?, both.1?), (vec![4.0; 50_000], vec![2.0; 5]));
        Ok(())
    })
    .unwrap();
}

#[test]
fn dropped_and_leaked_handles_harm_nobody() {
    c10d::run_ranks(2, |pg| {
        for i in 0..20 {
            drop(pg.start(op::all_reduce(vec![1u8; 10_000], ReduceOp::Sum)));
            std::mem::forget(pg.start(op::all_reduce(vec![1u8; 10], ReduceOp::Sum)));
            let mut x = [i];
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x, [2 * i]);
        }
        let mut borrowed = vec![3u32; 40_000];
        // The scope waits although the handle is gone.
        pg.scope(|s| drop(s.start(op::all_reduce(&mut borrowed, ReduceOp::Sum))));
        assert_eq!(borrowed, vec![6; 40_000]);
        pg.scope(|s| std::mem::forget(s.start(op::all_reduce(&mut borrowed, ReduceOp::Sum))));
        assert_eq!(borrowed, vec![12; 40_000]);
        Ok(())
    })
    .unwrap();
}

/// Polled once and then forgotten: the op goes on without its future.
#[test]
fn a_future_that_is_not_polled_again() {
    c10d::run_ranks(2, |pg| {
        let mut work = Box::pin(pg.start(op::all_reduce(vec![1u64; 70_000], ReduceOp::Sum)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = work.as_mut().poll(&mut context);
        drop(work);
        pg.barrier()
    })
    .unwrap();
}

#[test]
fn wait_timeout_is_a_look() {
    c10d::run_ranks(2, |pg| {
        if pg.rank() == 1 {
            pg.store().get("looked", soon())?;
            pg.all_reduce(&mut [1i32], ReduceOp::Sum)?;
            return Ok(());
        }
        let work = pg.start(op::all_reduce(vec![1i32], ReduceOp::Sum));
        let work = work.wait_timeout(Duration::from_millis(20)).expect_err("the other rank has not come yet");
        pg.store().set("looked", b"", soon())?;
        assert_eq!(work.wait()?, [2]);
        Ok(())
    })
    .unwrap();
}

/// An op that fails gives its buffer back.
#[test]
fn buffers_come_back_from_failures() {
    c10d::run_ranks(2, |pg| {
        if pg.rank() == 1 {
            pg.store().get("failed", soon())?;
            return Ok(());
        }
        let call = op::all_reduce(vec![5i32; 3], ReduceOp::Sum).timeout(Duration::from_millis(100));
        let failed = pg.start(call).wait().expect_err("the other rank does not come");
        pg.store().set("failed", b"", soon())?;
        assert_eq!(*failed.error.kind(), ErrorKind::Timeout);
        assert_eq!(failed.error.report().guilty, [1]);
        assert_eq!(failed.buffer.map(|b| b.len()), Some(3));
        Ok(())
    })
    .unwrap();
}

#[test]
fn all_of_this_over_tcp() {
    stage::again_over_tcp("all_of_this_over_tcp");
}
