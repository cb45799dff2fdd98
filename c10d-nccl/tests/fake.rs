//! The backend with the fake library, through the real loader and the real driver bindings.

use crate::common;

use std::future::Future;

use c10d_core::{Builder, DType, ErrorKind, ReduceOp, Result, Status, op};
use common::{SECOND, builder, on, with_fake};

#[test]
fn all_reduce_of_four() {
    with_fake("all_reduce_of_four", "", || {
        let sums = builder().run_ranks(4, |pg| -> Result<Vec<f32>> {
            let mut x = on(pg.rank(), &[pg.rank() as f32, 1.0]);
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            let y = pg.start(op::all_reduce(x, ReduceOp::Avg)).wait()?;
            let y = y.to_vec(60 * SECOND);
            pg.shutdown()?;
            y
        });
        assert_eq!(sums.unwrap(), vec![vec![6.0, 4.0]; 4]);
    });
}

#[test]
fn messages_cross() {
    with_fake("messages_cross", "", || {
        let got = builder().run_ranks(2, |pg| -> Result<Vec<i64>> {
            let other = 1 - pg.rank();
            let big = vec![i64::from(pg.rank()); 100_000];
            // Both ranks send before either receives.
            let send = pg.start(op::send(on(pg.rank(), &big), other, 0));
            let mut x = on(pg.rank(), &vec![0i64; 100_000]);
            pg.recv(&mut x, other, 0)?;
            send.wait()?;
            x.to_vec(60 * SECOND)
        });
        let got = got.unwrap();
        assert!(got[0].iter().all(|v| *v == 1) && got[1].iter().all(|v| *v == 0));
        assert_eq!(DType::I64.size(), 8);
    });
}

/// NCCL cannot cancel a receive. The op continues, and its handle gets the message.
#[test]
fn messages_are_not_taken_back() {
    with_fake("messages_are_not_taken_back", "", || {
        let got = builder().run_ranks(2, |pg| -> Result<Vec<i64>> {
            if pg.rank() == 0 {
                pg.barrier()?;
                return pg.send(on(0, &[7i64; 10]), 1, 0)?.to_vec(60 * SECOND);
            }
            let refused = pg.start(op::recv(on(1, &[0i64; 10]), 0, 0)).cancel().map(drop).unwrap_err();
            let e = &refused.error;
            assert_eq!((e.kind(), e.status(), e.report().backend), (&ErrorKind::Unsupported, Status::Rejected, "nccl"));
            pg.barrier()?;
            refused.work.wait()?.to_vec(60 * SECOND)
        });
        assert_eq!(got.unwrap(), [[7; 10]; 2]);
    });
}

struct Alarm;

impl std::task::Wake for Alarm {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker's panic");
    }
}

#[test]
fn wakers_that_panic_do_not_affect_later_ops() {
    with_fake("wakers_that_panic_do_not_affect_later_ops", "", || {
        let sums = builder().run_ranks(2, |pg| -> Result<Vec<f32>> {
            let waker = std::sync::Arc::new(Alarm).into();
            for _ in 0..3 {
                let mut work = pg.start(op::all_reduce(on(pg.rank(), &[1f32]), ReduceOp::Sum));
                let _ = std::pin::Pin::new(&mut work).poll(&mut std::task::Context::from_waker(&waker)).is_ready();
            }
            let mut x = on(pg.rank(), &[1f32]);
            pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(20 * SECOND))?;
            let x = x.to_vec(60 * SECOND)?;
            pg.shutdown().map(|()| x)
        });
        assert_eq!(sums.unwrap(), [[2.0]; 2]);
    });
}

/// Ranks with splits and ranks without make the same NCCL calls.
#[test]
fn splits_on_some_ranks() {
    with_fake("splits_on_some_ranks", "", || {
        let got = builder().run_ranks(3, |pg| -> Result<Vec<u8>> {
            let first = 10 * pg.rank() as u8;
            let (input, output) = (on(pg.rank(), &[first, first + 1, first + 2]), on(pg.rank(), &[0u8; 3]));
            let call = op::all_to_all_single(input, output);
            let call = if pg.rank() == 1 { call.splits(&[1, 1, 1], &[1, 1, 1]) } else { call };
            pg.run(call)?.1.to_vec(60 * SECOND)
        });
        assert_eq!(got.unwrap(), [[0, 10, 20], [1, 11, 21], [2, 12, 22]]);
    });
}

#[test]
fn sub_groups_are_split_off() {
    with_fake("sub_groups_are_split_off", "", || {
        let got = builder().run_ranks(4, |pg| -> Result<Vec<f32>> {
            let mut seen = Vec::new();
            let mut sum = |pg: &c10d_core::ProcessGroup, device: u32| -> Result {
                // The numbers of the ranks in NCCL's communicator are the same as in the group.
                let mut x = on(device, &[device as f32]);
                pg.broadcast(&mut x, 0)?;
                assert_eq!(x.to_vec::<f32>(60 * SECOND)?, [pg.global_rank(0).unwrap() as f32]);
                let mut x = on(device, &[device as f32]);
                pg.all_reduce(&mut x, ReduceOp::Sum)?;
                seen.push(x.to_vec::<f32>(60 * SECOND)?[0]);
                Ok(())
            };
            // Two ranks are in no sub-group.
            if let Some(some) = pg.new_group(&[3, 1])? {
                sum(&some, pg.rank())?;
            }
            // Two sub-groups, in reverse order.
            let halves = pg.split(Some(pg.rank() % 2), 10 - pg.rank())?;
            sum(&halves.expect("each has a color"), pg.rank())?;
            // One rank has no color.
            if let Some(three) = pg.split((pg.rank() != 2).then_some(0), 0)? {
                sum(&three, pg.rank())?;
            }
            sum(&pg, pg.rank())?;
            Ok(seen)
        });
        let want = [vec![2.0, 4.0, 6.0], vec![4.0, 4.0, 4.0, 6.0], vec![2.0, 6.0], vec![4.0, 4.0, 4.0, 6.0]];
        assert_eq!(got.unwrap(), want);
    });
}

/// NCCL requires that no call is running on a communicator that is divided. The fake checks this.
#[test]
fn a_group_is_split_behind_what_is_in_flight() {
    with_fake("a_group_is_split_behind_what_is_in_flight", "", || {
        let (started, goes_on) = crossbeam_channel::bounded(1);
        let got = builder().run_ranks(2, |pg| -> Result<Vec<f32>> {
            if pg.rank() == 1 {
                // Rank 0 has started its op, which waits for this rank. While this rank sleeps, rank 0 calls `split`.
                let _ = goes_on.recv();
                std::thread::sleep(SECOND / 10);
            }
            let work = pg.start(op::all_reduce(on(pg.rank(), &[1f32; 10]), ReduceOp::Sum));
            if pg.rank() == 0 {
                let _ = started.send(());
            }
            let both = pg.split(Some(0), 1 - pg.rank())?.expect("each has a color");
            let mut x = work.wait()?;
            both.all_reduce(&mut x, ReduceOp::Sum)?;
            Ok(vec![x.to_vec::<f32>(SECOND)?[9], both.rank() as f32])
        });
        assert_eq!(got.unwrap(), [[4.0, 1.0], [4.0, 0.0]]);
    });
}

/// As with real non-blocking communicators, calls are accepted at once, and are put on the stream later.
#[test]
fn calls_are_in_progress_for_a_while() {
    with_fake("calls_are_in_progress_for_a_while", "progress=3", || {
        let got = builder().run_ranks(3, |pg| -> Result<Vec<f32>> {
            let rank = pg.rank();
            let works = (0..5).map(|i| {
                let x = on(rank, &vec![(rank + i) as f32; 10_000]);
                pg.start(op::all_reduce(x, ReduceOp::Sum))
            });
            let mut seen = Vec::new();
            for work in works.collect::<Vec<_>>() {
                seen.push(work.wait()?.to_vec::<f32>(SECOND)?[9_999]);
            }
            let mut x = on(rank, &[1f32]);
            pg.all_reduce(&mut x, ReduceOp::PreMulSum(0.5))?;
            seen.extend(x.to_vec::<f32>(SECOND)?);
            let (_, all) = pg.all_gather(on(rank, &[rank as f32]), (0..3).map(|_| on(rank, &[9f32])).collect())?;
            for part in &all {
                seen.extend(part.to_vec::<f32>(SECOND)?);
            }
            let send = pg.start(op::send(on(rank, &[rank as f32]), (rank + 1) % 3, 0));
            pg.recv(&mut x, (rank + 2) % 3, 0)?;
            send.wait()?;
            assert_eq!(x.to_vec::<f32>(SECOND)?, [((rank + 2) % 3) as f32]);
            let halves = pg.split(Some(rank % 2), rank)?.expect("each has a color");
            halves.all_reduce(&mut x, ReduceOp::Max)?;
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            seen.extend(x.to_vec::<f32>(SECOND)?);
            Ok(seen)
        });
        let want = vec![3.0, 6.0, 9.0, 12.0, 15.0, 1.5, 0.0, 1.0, 2.0, 4.0];
        assert_eq!(got.unwrap(), vec![want; 3]);
    });
}

/// NCCL makes a group without some ranks, after the running ops have ended. The old and the new group both work.
#[test]
fn a_group_is_shrunk() {
    with_fake("a_group_is_shrunk", "", || {
        let got = builder().run_ranks(3, |pg| -> Result<Vec<f32>> {
            let work = pg.start(op::all_reduce(on(pg.rank(), &[1f32; 50_000]), ReduceOp::Sum));
            let mut seen = Vec::new();
            if pg.rank() != 1 {
                let rest = pg.shrink(&[1])?;
                let mut x = on(pg.rank(), &[1.0 + pg.rank() as f32]);
                rest.all_reduce(&mut x, ReduceOp::Sum)?;
                seen = x.to_vec(60 * SECOND)?;
            }
            let mut x = work.wait()?;
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            seen.push(x.to_vec::<f32>(60 * SECOND)?[49_999]);
            Ok(seen)
        });
        assert_eq!(got.unwrap(), [vec![4.0, 9.0], vec![9.0], vec![4.0, 9.0]]);
    });
}

/// The op runs after the earlier work on the caller's stream, and work that is enqueued after a blocking call runs
/// after the op. The fake reports races.
#[test]
fn the_callers_stream_is_ordered() {
    with_fake("the_callers_stream_is_ordered", "", || {
        ordered(builder());
        ordered(common::with_cpu().backend("cuda:gloo-like"));
    });
}

fn ordered(groups: Builder) {
    let got = groups.run_ranks(2, |pg| -> Result<Vec<f32>> {
        let (cuda, index) = (common::cuda(), pg.rank() as u16);
        let stream = cuda.create_stream(index)?;
        let mut x = on(pg.rank(), &[0f32; 4]);
        let host = [1f32 + pg.rank() as f32; 4];
        let mut back = [0f32; 4];
        let place = common::place(&mut x);
        let event = cuda.create_event(index)?;
        // SAFETY: the host and the device memory exist until the event was reached.
        #[allow(unsafe_code)]
        unsafe {
            cuda.copy_in(index, stream, place, host.as_ptr().cast(), 16)?;
            pg.run(op::all_reduce(&mut x, ReduceOp::Sum).on_stream(stream))?;
            cuda.copy_out(index, stream, back.as_mut_ptr().cast(), place, 16)?;
            cuda.record(index, event, stream)?;
            while !cuda.query(index, event)? {
                std::thread::yield_now();
            }
        }
        Ok(back.to_vec())
    });
    assert_eq!(got.unwrap(), vec![vec![3.0; 4]; 2]);
}

/// The shared stream does not make one rank's op wait for another rank's op.
#[test]
fn threads_on_one_gpu_share_its_default_stream() {
    with_fake("threads_on_one_gpu_share_its_default_stream", "devices=1", || {
        let got = builder().run_ranks(3, |pg| -> Result<Vec<i32>> {
            let mut x = on(0, &[pg.rank() as i32; 100]);
            for _ in 0..3 {
                pg.all_reduce(&mut x, ReduceOp::Sum)?;
            }
            let y = pg.start(op::broadcast(x, 1)).wait()?;
            y.to_vec(60 * SECOND)
        });
        assert_eq!(got.unwrap(), vec![vec![27; 100]; 3]);
    });
}

/// For 129 ranks or more, NCCL gets several ids.
#[test]
fn more_ranks_than_one_root_serves() {
    with_fake("more_ranks_than_one_root_serves", "", || {
        let done = builder().timeout(60 * SECOND).run_ranks(130, |pg| -> Result<Vec<i32>> {
            let mut x = on(pg.rank() % 8, &[pg.rank() as i32; 10]);
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            x.to_vec(60 * SECOND)
        });
        assert_eq!(done.unwrap(), vec![vec![130 * 129 / 2; 10]; 130]);
    });
}
