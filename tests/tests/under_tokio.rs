//! Started ops as futures under tokio.

use std::time::{Duration, Instant};

use c10d::{Cancel, ErrorKind, ProcessGroup, ReduceOp, Result, op};

/// A time limit that only a hang reaches.
const LONG: Duration = Duration::from_secs(20);
/// A time limit that passes while an op waits for a peer that has not made its call.
const SHORT: Duration = Duration::from_millis(20);

/// Runs each rank's task on runtimes of one and of several threads.
fn on_runtimes(ranks: u32, task: impl AsyncFn(ProcessGroup) -> Result + Sync) {
    type Make = fn() -> tokio::runtime::Builder;
    for make in [tokio::runtime::Builder::new_current_thread as Make, tokio::runtime::Builder::new_multi_thread] {
        c10d::builder()
            .timeout(LONG)
            .run_ranks(ranks, |pg| make().worker_threads(2).enable_time().build().expect("threads").block_on(task(pg)))
            .unwrap();
    }
}

#[test]
fn many_tasks_have_their_own_results() {
    for ranks in 1..=5 {
        on_runtimes(ranks, async |pg| {
            let n = pg.size();
            let works = (0..50).map(|i| pg.start(op::all_reduce(vec![i; 100], ReduceOp::Sum)));
            let tasks: Vec<_> = works.map(tokio::spawn).collect();
            // The last op is awaited first.
            for (i, task) in (0u32..50).zip(tasks).rev() {
                assert_eq!(task.await.expect("no panic")?, vec![i * n; 100]);
            }
            let (a, b) = tokio::join!(
                pg.start(op::all_reduce(vec![1u8; 3], ReduceOp::Sum)),
                pg.start(op::broadcast(vec![pg.rank(); 2], 0)),
            );
            assert_eq!((a?, b?), (vec![n as u8; 3], vec![0; 2]));
            Ok(())
        });
    }
}

/// The timer ends first. The handle remains, and another task gets the result later.
#[test]
fn the_handle_can_be_used_after_select_and_timeout() {
    on_runtimes(2, async |pg| {
        if pg.rank() == 0 {
            let mut work = pg.start(op::all_reduce(vec![1u32; 8], ReduceOp::Sum));
            assert!(tokio::time::timeout(SHORT, &mut work).await.is_err());
            tokio::select! {
                biased;
                result = &mut work => panic!("rank 1 has not called the op: {result:?}"),
                () = tokio::time::sleep(SHORT) => {}
            }
            // Now rank 1 may call the op.
            pg.start(op::send(vec![0u8], 1, 1)).await?;
            // Another task polls the work, so its waker replaces the old one.
            assert_eq!(tokio::spawn(work).await.expect("no panic")?, [2; 8]);
        } else {
            pg.start(op::recv(vec![9u8], 0, 1)).await?;
            assert_eq!(pg.start(op::all_reduce(vec![1u32; 8], ReduceOp::Sum)).await?, [2; 8]);
        }
        Ok(())
    });
}

#[test]
fn a_dropped_future_does_not_end_its_op() {
    on_runtimes(2, async |pg| {
        if pg.rank() == 0 {
            let work = pg.start(op::all_reduce(vec![1u32; 100_000], ReduceOp::Sum));
            assert!(tokio::time::timeout(SHORT, work).await.is_err());
            pg.start(op::send(vec![0u8], 1, 1)).await?;
        } else {
            pg.start(op::recv(vec![9u8], 0, 1)).await?;
            let sum = pg.start(op::all_reduce(vec![1u32; 100_000], ReduceOp::Sum)).await?;
            assert_eq!(sum, vec![2; 100_000]);
        }
        assert_eq!(pg.start(op::all_reduce(vec![5u32], ReduceOp::Sum)).await?, [10]);
        Ok(())
    });
}

#[test]
fn a_receive_can_be_cancelled_after_a_timeout() {
    on_runtimes(2, async |pg| {
        if pg.rank() == 0 {
            let mut work = pg.start(op::recv(vec![0u8; 4], 1, 3));
            assert!(tokio::time::timeout(SHORT, &mut work).await.is_err());
            let Cancel::Back(buffer) = work.cancel()? else { panic!("nothing was sent yet") };
            pg.start(op::send(vec![0u8], 1, 1)).await?;
            assert_eq!(pg.start(op::recv(buffer, 1, 3)).await?, [7; 4]);
            let mut collective = pg.start(op::all_reduce(vec![1u32], ReduceOp::Sum));
            assert!(tokio::time::timeout(SHORT, &mut collective).await.is_err());
            let refused = collective.cancel().expect_err("others wait for it");
            assert_eq!(*refused.error.kind(), ErrorKind::Unsupported);
            pg.start(op::send(vec![0u8], 1, 1)).await?;
            assert_eq!(refused.work.await?, [2]);
        } else {
            pg.start(op::recv(vec![9u8], 0, 1)).await?;
            pg.start(op::send(vec![7u8; 4], 0, 3)).await?;
            pg.start(op::recv(vec![9u8], 0, 1)).await?;
            assert_eq!(pg.start(op::all_reduce(vec![1u32], ReduceOp::Sum)).await?, [2]);
        }
        Ok(())
    });
}

/// Each op has its own deadline, and its error names the missing rank.
#[test]
fn each_op_has_its_own_deadline() {
    on_runtimes(2, async |pg| {
        if pg.rank() == 0 {
            let call = op::recv(vec![0u8; 4], 1, 3).timeout(Duration::from_millis(100));
            let e = pg.start(call).await.expect_err("nobody sends").error;
            assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::Timeout, &[1][..]));
            pg.store().set("reported", b"", Instant::now() + LONG)?;
        } else {
            // If this rank left earlier, the error of rank 0 would not be a timeout.
            let store = pg.store().clone();
            let signalled = tokio::task::spawn_blocking(move || store.wait(&["reported"], Instant::now() + LONG));
            signalled.await.expect("no panic")?;
        }
        Ok(())
    });
}
