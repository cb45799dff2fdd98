//! Tests of collectives on the guarded device, through the CPU backend.

use crate::common;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use c10d_core::backend::{DeviceRegistration, Provider};
use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Builder, Cancel, DType, DispatchKey, ErrorKind, ReduceOp, Status, Work, op};
use c10d_guarded::{Entry, Guarded, What};
use common::{CAP, returns};

#[test]
fn all_reduce_sums_what_the_devices_have() {
    let (runtime, builder) = staged!("sums");
    let device: Arc<dyn DeviceRuntime> = runtime;
    builder
        .hint("staged.chunk", "1000")
        .run_ranks(3, |pg| {
            let index = pg.rank() as u16;
            let mine: Vec<f32> = (0..5000).map(|i| (i + pg.rank() * 7) as f32).collect();
            let mut x = DeviceBuffer::from_slice(&device, index, &mine, CAP)?;
            for _ in 0..3 {
                x.write(&mine, CAP)?;
                pg.all_reduce(&mut x, ReduceOp::Sum)?;
                let want: Vec<f32> = (0..5000).map(|i| (3 * i + 21) as f32).collect();
                assert_eq!(x.to_vec::<f32>(CAP)?, want);
            }
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn messages_do_not_wait_for_each_other() {
    let (runtime, builder) = staged!("messages");
    let device: Arc<dyn DeviceRuntime> = runtime;
    builder
        .run_ranks(2, |pg| {
            let index = pg.rank() as u16;
            let peer = 1 - pg.rank();
            let buffer = |value: i32| DeviceBuffer::from_slice(&device, index, &[value; 300], CAP);
            // The message whose receive starts first is sent last.
            let late = pg.start(op::recv(buffer(0)?, peer, 7));
            let sends: Vec<_> =
                (0..20).map(|i| Ok(pg.start(op::send(buffer(i)?, peer, 5)))).collect::<c10d_core::Result<_>>()?;
            for i in 0..20 {
                let mut x = buffer(-1)?;
                pg.recv(&mut x, peer, 5)?;
                assert_eq!(x.to_vec::<i32>(CAP)?, [i; 300]);
            }
            for work in sends {
                work.wait()?;
            }
            pg.send(&buffer(77)?, peer, 7)?;
            assert_eq!(late.wait()?.to_vec::<i32>(CAP)?, [77; 300]);
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn unexpected_list_lengths_are_a_mismatch_with_the_whole_lengths() {
    let (runtime, builder) = staged!("lengths");
    let device: Arc<dyn DeviceRuntime> = runtime;
    let told = builder
        .hint("staged.chunk", "1000")
        .run_ranks(3, |pg| {
            let index = pg.rank() as u16;
            let on = |count: usize| DeviceBuffer::from_slice(&device, index, &vec![1i32; count], CAP);
            // Rank 1 sends more elements than rank 0 expects. Both numbers of elements need many rounds.
            let from_1 = if pg.rank() == 0 { 4000 } else { 5000 };
            let mine = if pg.rank() == 1 { 5000 } else { 10 };
            let outputs = vec![on(10)?, on(from_1)?, on(10)?];
            let error = pg.all_gather(&on(mine)?, outputs).unwrap_err();
            let guilty = error.report().guilty.clone();
            Ok((error.kind().clone(), guilty))
        })
        .unwrap();
    let mismatch =
        |mine: &str, theirs: &str| ErrorKind::Mismatch { field: "splits", mine: mine.into(), theirs: theirs.into() };
    assert_eq!(told[0], (mismatch("4000", "5000"), vec![1]));
    assert_eq!(told[1], (mismatch("5000", "4000"), vec![0]));
    let (kind, mut guilty) = told[2].clone();
    guilty.sort_unstable();
    assert_eq!((kind, guilty), (mismatch("4000", "5000"), vec![0, 1]));
}

#[test]
fn messages_of_one_sender_keep_their_order() {
    let (runtime, builder) = staged!("order");
    let device: Arc<dyn DeviceRuntime> = runtime.clone();
    let on = |index: u16, value: i32| DeviceBuffer::from_slice(&device, index, &[value; 300], CAP);
    runtime.start_log();
    builder
        .run_ranks(2, |pg| {
            if pg.rank() == 1 {
                for value in [1, 2] {
                    let mut x = on(2, 0)?;
                    pg.recv(&mut x, 0, 5)?;
                    assert_eq!(x.to_vec::<i32>(CAP)?, [value; 300]);
                }
                return pg.shutdown();
            }
            let (first, second) = (on(0, 1)?, on(1, 2)?);
            // The copy of the first message to the host waits until the second message's copy is done.
            runtime.hold(0, What::CopyOut);
            let works = [pg.start(op::send(first, 1, 5)), pg.start(op::send(second, 1, 5))];
            let out = |e: &Entry| e.index == 1 && e.what == What::CopyOut && e.ran;
            let end = Instant::now() + CAP;
            while !runtime.log().iter().any(out) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            // A pipeline that reorders messages would send the second message within this time.
            std::thread::sleep(Duration::from_millis(20));
            runtime.recover();
            works.into_iter().try_for_each(|work| work.wait().map(drop))?;
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn long_messages_go_in_rounds_that_wait_for_no_copy_back() {
    let (runtime, builder) = staged!("rounds");
    let device: Arc<dyn DeviceRuntime> = runtime.clone();
    let values: Vec<i32> = (0..5000).collect();
    builder
        .hint("staged.chunk", "4000")
        .run_ranks(2, |pg| {
            let index = pg.rank() as u16;
            let mut x =
                DeviceBuffer::from_slice(&device, index, if pg.rank() == 0 { &values } else { &[0; 5000] }, CAP)?;
            pg.barrier()?;
            if pg.rank() == 0 {
                runtime.start_log();
                runtime.hold(1, What::CopyIn);
                pg.barrier()?;
                // The message has five rounds of 4000 bytes. All of it arrives in the receiver's host memory, although
                // no copy to the receiver's device runs.
                pg.send(&x, 1, 5)?;
                let of = |what, ran| runtime.log().iter().filter(|e| e.what == what && e.ran == ran).count();
                assert_eq!((of(What::CopyOut, true), of(What::CopyIn, true)), (5, 0));
                let end = Instant::now() + CAP;
                while of(What::CopyIn, false) < 5 && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(of(What::CopyIn, false), 5);
                runtime.recover();
            } else {
                pg.barrier()?;
                pg.recv(&mut x, 0, 5)?;
                assert_eq!(x.to_vec::<i32>(CAP)?, values);
            }
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn the_first_message_is_received_completely_before_the_next() {
    let (runtime, builder) = staged!("whole");
    let device: Arc<dyn DeviceRuntime> = runtime;
    builder
        .hint("staged.chunk", "1000")
        .run_ranks(3, |pg| {
            let index = pg.rank() as u16;
            let on = |value: u32| DeviceBuffer::from_slice(&device, index, &[value; 3000], CAP);
            if pg.rank() > 0 {
                pg.barrier()?;
                (0..3).try_for_each(|_| pg.send(&on(pg.rank())?, 0, 5).map(drop))?;
                return pg.shutdown();
            }
            // Three receives from any source are started before any message is sent. Afterwards, rank 0 receives the
            // remaining three of the six messages, those of rank 1 first.
            let buffers: Vec<_> = (0..3).map(|_| on(9)).collect::<c10d_core::Result<_>>()?;
            let any: Vec<_> = buffers.into_iter().map(|x| pg.start(op::recv_any_source(x, 5))).collect();
            pg.barrier()?;
            let mut seen = [0; 3];
            for work in any {
                let (x, from) = work.wait()?;
                assert_eq!(x.to_vec::<u32>(CAP)?, [from; 3000]);
                seen[from as usize] += 1;
            }
            for from in [1, 2] {
                for _ in seen[from as usize]..3 {
                    let mut x = on(9)?;
                    pg.recv(&mut x, from, 5)?;
                    assert_eq!(x.to_vec::<u32>(CAP)?, [from; 3000]);
                }
            }
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn reductions_run_on_a_device_that_can_reduce() {
    static PROVIDER: Provider = Provider {
        source: "reducer",
        devices: &[DeviceRegistration { name: "reducer", key: DispatchKey::PrivateUse1, open: &|| Ok(reducer()) }],
        ..Provider::EMPTY
    };
    fn reducer() -> Arc<Guarded> {
        static RUNTIME: OnceLock<Arc<Guarded>> = OnceLock::new();
        RUNTIME.get_or_init(|| Arc::new(Guarded::new("reducer").with_reduction())).clone()
    }
    let builder = Builder::new().providers(&[&PROVIDER, &c10d_gloo_like::PROVIDER]).timeout(CAP);
    let runtime: Arc<dyn DeviceRuntime> = reducer();
    reducer().start_log();
    let builder = builder.backend("reducer:gloo-like").hint("staged.chunk", "1000");
    builder
        .clone()
        .run_ranks(3, |pg| {
            let (me, index) = (pg.rank(), pg.rank() as u16);
            let mine: Vec<i64> = (0..700).map(|i| i64::from(i + me * 7)).collect();
            let want: Vec<i64> = (0..700).map(|i| 3 * i + 21).collect();
            let mut x = DeviceBuffer::from_slice(&runtime, index, &mine, CAP)?;
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x.to_vec::<i64>(CAP)?, want);
            x.write(&mine, CAP)?;
            pg.reduce(&mut x, ReduceOp::Sum, 2)?;
            assert_eq!(x.to_vec::<i64>(CAP)?, if me == 2 { want } else { mine });
            let whole: Vec<i64> = (0..900).collect();
            let whole = DeviceBuffer::from_slice(&runtime, index, &whole, CAP)?;
            let mut part = DeviceBuffer::new(&runtime, index, DType::I64, 300)?;
            pg.reduce_scatter_into(&whole, &mut part, ReduceOp::Sum)?;
            let want: Vec<i64> = (0..300).map(|i| 3 * (i + 300 * i64::from(me))).collect();
            assert_eq!(part.to_vec::<i64>(CAP)?, want);
            pg.shutdown()
        })
        .unwrap();
    let reduced = || reducer().log().iter().any(|entry| entry.what == What::Reduce && entry.ran);
    assert!(reduced());
    reducer().start_log();
    builder
        .run_ranks(3, |pg| {
            let (me, index) = (i64::from(pg.rank()), pg.rank() as u16);
            // The parts have a different length for each rank, and the first is empty.
            let part = |rank: i64| (0..700 * rank).map(|i| i + 10 * rank).collect::<Vec<i64>>();
            let on = |values: &[i64]| DeviceBuffer::from_slice(&runtime, index, values, CAP);
            let inputs = (0..3).map(|rank| on(&part(rank))).collect::<c10d_core::Result<Vec<_>>>()?;
            let (_, output) = pg.reduce_scatter(inputs, on(&part(me))?, ReduceOp::Sum)?;
            assert_eq!(output.to_vec::<i64>(CAP)?, part(me).iter().map(|x| 3 * x).collect::<Vec<i64>>());
            pg.shutdown()
        })
        .unwrap();
    assert!(reduced(), "lists are reduced on the device, too");
    // The device memory of the pipelines is freed when their threads end.
    returns(|| {
        while reducer().allocations() > 0 {
            std::thread::yield_now();
        }
    });
}

#[test]
fn tensors_without_elements_are_accepted() {
    let (runtime, builder) = staged!("nothing");
    let device: Arc<dyn DeviceRuntime> = runtime;
    builder
        .run_ranks(2, |pg| {
            let index = pg.rank() as u16;
            let empty = || DeviceBuffer::new(&device, index, DType::F32, 0);
            pg.all_reduce(empty()?, ReduceOp::Sum)?;
            pg.all_gather(empty()?, vec![empty()?, empty()?])?;
            if pg.rank() == 0 {
                pg.send(empty()?, 1, 1).map(drop)?
            } else {
                pg.recv(empty()?, 0, 1).map(drop)?
            }
            // Only one of the tensors has elements.
            let some = DeviceBuffer::from_slice(&device, index, &[1f32; 3], CAP)?;
            let back = pg.all_reduce_coalesced(vec![empty()?, some, empty()?], ReduceOp::Sum)?;
            assert_eq!(back[1].to_vec::<f32>(CAP)?, [2.0; 3]);
            pg.shutdown()
        })
        .unwrap();
}

/// Cancels an op, and returns its buffer. Panics if the op's message was already received or sent.
fn back<R>(work: Work<R>) -> R {
    match work.cancel() {
        Ok(Cancel::Back(buffer)) => buffer,
        Ok(Cancel::TooLate(_)) => panic!("a message was taken"),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_cancelled_message_returns_its_buffer() {
    let (runtime, builder) = staged!("taken-back");
    let device: Arc<dyn DeviceRuntime> = runtime.clone();
    for count in [10, 3000] {
        builder
            .clone()
            .hint("staged.chunk", "1000")
            .run_ranks(2, |pg| {
                let (index, peer) = (pg.rank() as u16, 1 - pg.rank());
                let on = |value: u32| DeviceBuffer::from_slice(&device, index, &vec![value; count], CAP);
                let holds =
                    |x: &DeviceBuffer, value: u32| assert_eq!(x.to_vec::<u32>(CAP).unwrap(), vec![value; count]);
                let receive = |value: u32| -> c10d_core::Result<_> { Ok(pg.start(op::recv(on(value)?, peer, 5))) };
                if pg.rank() == 1 {
                    let (first, second) = (receive(91)?, receive(92)?);
                    let any = pg.start(op::recv_any_source(on(93)?, 5));
                    let (_, mut batch) = pg.batch(vec![op::send(on(0)?, 0, 9)], vec![op::recv(on(94)?, 0, 5)]);
                    holds(&back(first), 91);
                    let (buffer, from) = back(any);
                    holds(&buffer, 93);
                    assert_eq!(from, u32::MAX);
                    holds(&back(batch.pop().unwrap()), 94);
                    pg.barrier()?;
                    holds(&second.wait()?, 1);
                    holds(&receive(95)?.wait()?, 3);
                    return pg.shutdown();
                }
                pg.barrier()?;
                pg.recv(on(7)?, 1, 9)?;
                // The copies to the host are held, so the CPU backend cannot send either message yet.
                runtime.start_log();
                runtime.hold(index, What::CopyOut);
                let (one, two) = (pg.start(op::send(on(1)?, 1, 5)), pg.start(op::send(on(2)?, 1, 5)));
                let of_one = (4 * count).div_ceil(1000);
                let end = Instant::now() + CAP;
                let enqueued = || runtime.log().iter().filter(|e| e.what == What::CopyOut && !e.ran).count();
                while enqueued() <= of_one && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // The device may still read the buffer, so the buffer cannot be returned yet. The op ends as cancelled
                // when its copies are complete.
                let Ok(Cancel::TooLate(two)) = two.cancel() else { panic!("the device may still read it") };
                assert!(!two.is_done());
                runtime.recover();
                let e = two.wait().unwrap_err();
                assert_eq!((e.error.kind(), e.error.status()), (&ErrorKind::Aborted, Status::Rejected), "{}", e.error);
                holds(&e.buffer.unwrap(), 2);
                one.wait()?;
                pg.send(&on(3)?, 1, 5)?;
                pg.shutdown()
            })
            .unwrap();
    }
}

#[test]
fn cancelling_races_with_messages_and_loses_none() {
    let (runtime, builder) = staged!("races");
    let device: Arc<dyn DeviceRuntime> = runtime;
    // With the small chunk, a long message needs many rounds; with the large chunk, it needs one.
    for (chunk, large, messages, nap) in [("1000", 3000, 60u32, 400), ("16777216", 4 << 20, 10, 40_000)] {
        builder
            .clone()
            .hint("staged.chunk", chunk)
            .run_ranks(2, |pg| {
                let index = pg.rank() as u16;
                let count = |i: u32| if i.is_multiple_of(2) { large } else { 100 };
                let on = |value: u32, i: u32| DeviceBuffer::from_slice(&device, index, &vec![value; count(i)], CAP);
                if pg.rank() == 0 {
                    for i in 0..messages {
                        pg.send(&on(i, i)?, 1, 5)?;
                    }
                    return pg.shutdown();
                }
                let mut early = 0;
                for i in 0..messages {
                    let mut buffer = on(u32::MAX, i)?;
                    loop {
                        let work = pg.start(op::recv(buffer, 0, 5));
                        std::thread::sleep(Duration::from_micros((early * 3701 + u64::from(i) * 997) % nap));
                        match work.cancel()? {
                            Cancel::Back(again) => buffer = again,
                            Cancel::TooLate(work) => {
                                assert_eq!(work.wait()?.to_vec::<u32>(CAP)?, vec![i; count(i)]);
                                break;
                            }
                        }
                        early += 1;
                    }
                }
                println!("{messages} messages; {early} receives were cancelled before their message came");
                pg.shutdown()
            })
            .unwrap();
    }
}

/// If a started op has not ended when the shutdown times out, the error names the rank for which the op waited.
#[test]
fn a_shutdown_names_whom_it_waited_for() {
    let (runtime, builder) = staged!("named");
    let device: Arc<dyn DeviceRuntime> = runtime;
    builder
        .timeout(CAP)
        .run_ranks(2, |pg| {
            let soon = Instant::now() + CAP;
            for message in [false, true] {
                let group = pg.new_group(&[0, 1])?.expect("all ranks are members");
                if pg.rank() == 1 {
                    pg.store().get(&format!("over {message}"), soon)?;
                    continue;
                }
                let x = DeviceBuffer::from_slice(&device, 0, &[1i32; 300], CAP)?;
                if message {
                    drop(group.start(op::recv(x, 1, 0)));
                } else {
                    drop(group.start(op::all_reduce(x, ReduceOp::Sum)));
                }
                let e = group.shutdown_within(Duration::from_millis(300)).unwrap_err();
                assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Timeout, &[1][..]), "{e}");
                pg.store().set(&format!("over {message}"), b"", soon)?;
            }
            Ok(())
        })
        .unwrap();
}
