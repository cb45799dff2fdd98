//! Started ops: their order, waiting, and handles.

use crate::jobs;

use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use c10d::{ErrorKind, ProcessGroup, ReduceOp, op};
use c10d_conformance::block_on;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Both ranks start five ops, and then make a blocking call. Rank 1 starts its ops last.
#[test]
fn a_blocking_op_runs_after_those_started_before() {
    c10d::run_ranks(2, |pg| {
        for count in [4, 100_000] {
            let started = format!("started {count}");
            if pg.rank() == 1 {
                pg.store().get(&started, soon())?;
            }
            let works: Vec<_> =
                (0..5).map(|i| pg.start(op::all_reduce(vec![i + pg.rank() as i64; count], ReduceOp::Sum))).collect();
            if pg.rank() == 0 {
                pg.store().set(&started, b"", soon())?;
            }
            let mut last = vec![100i64; count];
            pg.all_reduce(&mut last, ReduceOp::Sum)?;
            assert_eq!(last, vec![200; count]);
            for (i, work) in works.into_iter().enumerate() {
                assert!(work.is_done(), "op {i} must be finished before the op after it");
                assert_eq!(work.wait()?, vec![2 * i as i64 + 1; count]);
            }
        }
        Ok(())
    })
    .unwrap();
}

/// Ops of different kinds, alternately started and blocking.
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

/// Rank 1 does nothing until rank 0 reports that its calls of `start` have returned.
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
fn many_started_ops_complete() {
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
fn handles_can_be_awaited_on_a_bare_executor() {
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
fn dropped_and_leaked_handles_do_not_affect_later_ops() {
    c10d::run_ranks(2, |pg| {
        for i in 0..20 {
            drop(pg.start(op::all_reduce(vec![1u8; 10_000], ReduceOp::Sum)));
            std::mem::forget(pg.start(op::all_reduce(vec![1u8; 10], ReduceOp::Sum)));
            let mut x = [i];
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x, [2 * i]);
        }
        let mut borrowed = vec![3u32; 40_000];
        // The scope waits for the op, although the op's handle was dropped.
        pg.scope(|s| drop(s.start(op::all_reduce(&mut borrowed, ReduceOp::Sum))));
        assert_eq!(borrowed, vec![6; 40_000]);
        pg.scope(|s| std::mem::forget(s.start(op::all_reduce(&mut borrowed, ReduceOp::Sum))));
        assert_eq!(borrowed, vec![12; 40_000]);
        Ok(())
    })
    .unwrap();
}

/// A future is polled once and then dropped; its op continues.
#[test]
fn a_dropped_future_does_not_stop_its_op() {
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
fn wait_timeout_returns_the_handle_of_an_unfinished_op() {
    c10d::run_ranks(2, |pg| {
        if pg.rank() == 1 {
            pg.store().get("looked", soon())?;
            pg.all_reduce(&mut [1i32], ReduceOp::Sum)?;
            return Ok(());
        }
        let work = pg.start(op::all_reduce(vec![1i32], ReduceOp::Sum));
        let work = work.wait_timeout(Duration::from_millis(20)).expect_err("the other rank has not made its call yet");
        pg.store().set("looked", b"", soon())?;
        assert_eq!(work.wait()?, [2]);
        Ok(())
    })
    .unwrap();
}

/// An op that fails returns its buffer.
#[test]
fn buffers_come_back_from_failures() {
    c10d::run_ranks(2, |pg| {
        if pg.rank() == 1 {
            pg.store().get("failed", soon())?;
            return Ok(());
        }
        let call = op::all_reduce(vec![5i32; 3], ReduceOp::Sum).timeout(Duration::from_millis(100));
        let failed = pg.start(call).wait().expect_err("the other rank makes no call");
        pg.store().set("failed", b"", soon())?;
        assert_eq!(*failed.error.kind(), ErrorKind::Timeout);
        assert_eq!(failed.error.report().guilty, [1]);
        assert_eq!(failed.buffer.map(|b| b.len()), Some(3));
        Ok(())
    })
    .unwrap();
}

/// A waker that panics.
struct Alarm;

impl std::task::Wake for Alarm {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker's panic");
    }
}

/// The threads of a group survive wakers that panic, and later ops succeed.
#[test]
fn wakers_that_panic_do_not_affect_later_ops() {
    c10d::run_ranks(2, |pg| {
        let other = 1 - pg.rank();
        let waker = std::sync::Arc::new(Alarm).into();
        let mut context = std::task::Context::from_waker(&waker);
        for i in 0..3u8 {
            let mut sum = pg.start(op::all_reduce(vec![1u8], ReduceOp::Sum).timeout(Duration::from_secs(10)));
            let mut message = pg.start(op::recv(vec![0u8], other, 0).timeout(Duration::from_secs(10)));
            if pg.rank() == 0 {
                assert!(std::pin::Pin::new(&mut message).poll(&mut context).is_pending());
                let _ = std::pin::Pin::new(&mut sum).poll(&mut context).is_ready();
                // The other rank sends only after this message, so the receive was polled before it could end.
                pg.send(&[i], other, 0)?;
                assert_eq!(message.wait()?, [i]);
            } else {
                assert_eq!(message.wait()?, [i]);
                pg.send(&[i], other, 0)?;
            }
            drop(sum);
        }
        let works: Vec<_> = (0..3).map(|i| pg.start(op::all_reduce(vec![i], ReduceOp::Sum))).collect();
        for (i, work) in works.into_iter().enumerate() {
            assert_eq!(work.wait()?, [2 * i as u64]);
        }
        pg.barrier()
    })
    .unwrap();
}

/// One rank polls a finished op again. The other ranks are not affected.
#[test]
fn polling_a_finished_op_again_is_the_callers_error() {
    let outcome = c10d::run_ranks(3, |pg| {
        let mut work = pg.start(op::all_reduce(vec![1u8], ReduceOp::Sum));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while std::pin::Pin::new(&mut work).poll(&mut context).is_pending() {
            std::thread::yield_now();
        }
        let again = match pg.rank() {
            1 => std::pin::Pin::new(&mut work).poll(&mut context),
            _ => std::task::Poll::Pending,
        };
        pg.barrier()?;
        assert_eq!(pg.all_reduce(vec![1u8], ReduceOp::Sum)?, [3]);
        Ok(match again {
            std::task::Poll::Ready(result) => result.map_err(|e| e.error.kind().clone()),
            std::task::Poll::Pending => Ok(Vec::new()),
        })
    });
    assert_eq!(outcome.unwrap(), [Ok(vec![]), Err(ErrorKind::InvalidArgument), Ok(vec![])]);
}

/// The elapsed time of an op begins at its call.
#[test]
fn elapsed_counts_from_the_call() {
    c10d::run_ranks(2, |pg| {
        if pg.rank() == 1 {
            pg.store().get("failed", soon())?;
            return Ok(());
        }
        let started = Instant::now();
        let works = [1, 2].map(|i| pg.start(op::all_reduce(vec![i], ReduceOp::Sum)));
        let are_started = Instant::now();
        // Time passes between the started ops and the blocking call. The elapsed times of the started ops must include
        // it.
        (0..20).try_for_each(|_| pg.store().set("older", b"", soon()))?;
        let called = Instant::now();
        let mut x = [1i32];
        let blocked =
            pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(Duration::from_millis(200))).unwrap_err().error;
        let took = blocked.report().elapsed.unwrap();
        assert!(took >= Duration::from_millis(200) && took <= called.elapsed(), "{blocked}");
        pg.store().set("failed", b"", soon())?;
        for work in works {
            let e = work.wait().expect_err("the other rank makes no call").error;
            let took = e.report().elapsed.unwrap();
            assert!(
                took >= called.duration_since(are_started) + Duration::from_millis(200) && took <= started.elapsed(),
                "{e}"
            );
        }
        Ok(())
    })
    .unwrap();
}

/// A waker that drops the last handle of a group, and reports how long the drop took.
struct Last(Mutex<Option<ProcessGroup>>, Mutex<mpsc::Sender<Duration>>);

impl Wake for Last {
    fn wake(self: Arc<Self>) {
        let begin = Instant::now();
        drop(self.0.lock().unwrap().take());
        // If the waker is called again, the receiver may already have been dropped. The send then fails, which does not
        // matter.
        let _ = self.1.lock().unwrap().send(begin.elapsed());
    }
}

/// Dropping the last handle waits for running ops, but not for the op whose waker drops the handle.
#[test]
fn the_last_handle_may_be_dropped_by_a_waker() {
    c10d::run_ranks(2, |pg| {
        for message in [false, true] {
            let Some(group) = pg.new_group(&[0, 1])? else { panic!("all ranks are members") };
            if pg.rank() == 1 {
                // After this, the other rank has polled its op, which waits for this rank.
                pg.store().get(&format!("waits {message}"), soon())?;
            }
            let mut work: Pin<Box<dyn Future<Output = bool>>> = match (message, pg.rank()) {
                (false, _) => {
                    let work = group.start(op::all_reduce(vec![1u8; 9], ReduceOp::Sum));
                    Box::pin(async move { work.await.is_ok() })
                }
                (true, 0) => {
                    let work = group.start(op::recv(vec![1u8; 9], 1, 0));
                    Box::pin(async move { work.await.is_ok() })
                }
                (true, _) => {
                    let work = group.start(op::send(vec![1u8; 9], 0, 0));
                    Box::pin(async move { work.await.is_ok() })
                }
            };
            let (sender, receiver) = mpsc::channel();
            let waker = Waker::from(Arc::new(Last(Mutex::new(Some(group)), Mutex::new(sender))));
            let done = work.as_mut().poll(&mut Context::from_waker(&waker));
            if pg.rank() == 0 {
                assert!(done.is_pending());
                pg.store().set(&format!("waits {message}"), b"", soon())?;
                let took = receiver.recv_timeout(Duration::from_secs(20)).expect("the waker is called");
                assert!(took < Duration::from_secs(5), "the drop took {took:?}");
            }
            match done {
                Poll::Ready(well) => assert!(well),
                Poll::Pending => assert!(block_on(work)),
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn all_of_this_works_over_tcp() {
    jobs::again_over_tcp("all_of_this_works_over_tcp");
}
