//! Point-to-point: tags, sources, order, threads.

use crate::jobs;

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use c10d::{Cancel, ErrorKind, ProcessGroup, ReduceOp, Status, Work, op};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Polls the work once, as the timeout of an async runtime does before it cancels a future.
fn polled<R>(mut work: Work<R>) -> Work<R> {
    assert!(Pin::new(&mut work).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    work
}

fn back<R>(work: Work<R>) -> R {
    match work.cancel() {
        Ok(Cancel::Back(buffer)) => buffer,
        Ok(Cancel::TooLate(_)) => panic!("a message has arrived"),
        Err(e) => panic!("{e}"),
    }
}

fn receive(pg: &ProcessGroup, from: u32, tag: u32) -> u32 {
    let mut x = [0];
    pg.recv(&mut x, from, tag).unwrap();
    x[0]
}

#[test]
fn tags_are_matched_and_each_is_in_order() {
    c10d::run_ranks(2, |pg| {
        const EACH: u32 = 20;
        if pg.rank() == 0 {
            for i in 0..EACH {
                for tag in 0..3 {
                    pg.send(&[tag * 1000 + i], 1, tag)?;
                }
            }
        } else {
            // The messages of the last tag are received first: messages without a receive must not block others.
            for tag in (0..3).rev() {
                for i in 0..EACH {
                    let mut x = [0u32];
                    pg.recv(&mut x, 0, tag)?;
                    assert_eq!(x, [tag * 1000 + i]);
                }
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn any_source_names_the_sender() {
    c10d::run_ranks(4, |pg| {
        if pg.rank() == 2 {
            let mut from = Vec::new();
            for _ in 0..3 {
                let (x, source) = pg.recv_any_source(vec![0u64; 3], 5)?;
                assert_eq!(x, [u64::from(source); 3]);
                from.push(source);
            }
            from.sort();
            assert_eq!(from, [0, 1, 3]);
        } else {
            pg.send(&[u64::from(pg.rank()); 3], 2, 5)?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn receives_and_sends_start_in_either_order() {
    c10d::run_ranks(2, |pg| {
        let other = 1 - pg.rank();
        // Both ranks receive first. With blocking receives, they would wait for each other.
        let receive = pg.start(op::recv(vec![0i32; 1000], other, 1));
        let any = pg.start(op::recv_any_source(vec![0i32; 7], 2));
        pg.barrier()?;
        let send = pg.start(op::send(vec![pg.rank() as i32; 1000], other, 1));
        pg.send(&[9; 7], other, 2)?;
        assert_eq!(receive.wait()?, vec![other as i32; 1000]);
        assert_eq!(any.wait()?, (vec![9; 7], other));
        send.wait()?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn two_ranks_send_each_other_large_messages() {
    for bytes in [1 << 20, 8 << 20] {
        c10d::run_ranks(2, |pg| {
            let other = 1 - pg.rank();
            let mine: Vec<u8> = (0..bytes).map(|i| (i as u32 ^ pg.rank()) as u8).collect();
            let send = pg.start(op::send(mine, other, 0));
            let mut theirs = vec![0u8; bytes];
            pg.recv(&mut theirs, other, 0)?;
            assert!(theirs.iter().enumerate().all(|(i, b)| *b == (i as u32 ^ other) as u8));
            send.wait()?;
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn several_threads_exchange_messages_during_collectives() {
    c10d::run_ranks(2, |pg| {
        let other = 1 - pg.rank();
        std::thread::scope(|s| {
            for tag in 0..4u32 {
                let pg = pg.clone();
                s.spawn(move || {
                    for i in 0..50u32 {
                        let mut x = vec![0u32; 300];
                        if pg.rank() == 0 {
                            pg.send(vec![tag + i; 300], other, tag).unwrap();
                            pg.recv(&mut x, other, tag).unwrap();
                        } else {
                            pg.recv(&mut x, other, tag).unwrap();
                            pg.send(vec![tag + i; 300], other, tag).unwrap();
                        }
                        assert_eq!(x, [tag + i; 300]);
                    }
                });
            }
            for i in 0..50 {
                let mut x = [i];
                pg.all_reduce(&mut x, c10d::ReduceOp::Sum).unwrap();
                assert_eq!(x, [2 * i]);
            }
        });
        Ok(())
    })
    .unwrap();
}

#[test]
fn invalid_messages_are_rejected_before_anything_is_sent() {
    c10d::run_ranks(2, |pg| {
        let me = pg.rank();
        for e in [pg.send(&[1f32], me, 0).unwrap_err(), pg.send(&[1f32], 2, 0).unwrap_err()] {
            assert_eq!(*e.kind(), ErrorKind::InvalidArgument);
            assert_eq!(e.status(), Status::Rejected);
        }
        assert_eq!(*pg.recv(&mut [1f32], me, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
        pg.barrier()
    })
    .unwrap();
}

#[test]
fn a_receive_without_sender_times_out_and_names_it() {
    let results = c10d::run_ranks(2, |pg| {
        if pg.rank() == 1 {
            // This rank stays until the other has stopped waiting.
            let gave_up = pg.store().get("gave up", std::time::Instant::now() + Duration::from_secs(10));
            return gave_up.map(|_| None);
        }
        let e = pg.run(op::recv(vec![0u8; 4], 1, 0).timeout(Duration::from_millis(200))).unwrap_err().error;
        pg.store().set("gave up", b"", std::time::Instant::now() + Duration::from_secs(10))?;
        Ok(Some(e))
    })
    .unwrap();
    let e = results[0].as_ref().unwrap();
    assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::Timeout, &[1][..]));
}

/// A cancelled receive has no effect: messages go to the other receives, in order.
#[test]
fn a_cancelled_receive_takes_no_message() {
    c10d::run_ranks(3, |pg| {
        if pg.rank() != 1 {
            pg.store().get("cancelled", soon())?;
            for i in [1u32, 2, 3] {
                pg.send(&[10 * pg.rank() + i], 1, 5)?;
            }
            return pg.barrier();
        }
        let start = |from| pg.start(op::recv(vec![77u32], from, 5));
        let (first, second) = (polled(start(0)), start(0));
        let (any, third) = (polled(pg.start(op::recv_any_source(vec![88u32], 5))), start(0));
        let sends = vec![op::send(vec![0u32], 0, 6)];
        let (_, mut batch) = pg.batch(sends, vec![op::recv(vec![99u32], 0, 5), op::recv(vec![99u32], 2, 5)]);
        let (of_2, of_0) = (batch.pop().unwrap(), batch.pop().unwrap());
        // This receive is cancelled before its deadline, so the group must not fail at this deadline.
        let short = pg.start(op::recv(vec![66u32], 2, 5).timeout(Duration::from_millis(300)));
        assert_eq!((back(first), back(any), back(of_0)), (vec![77], (vec![88], u32::MAX), vec![99]));
        assert_eq!(back(short), [66]);
        std::thread::sleep(Duration::from_millis(400));
        pg.store().set("cancelled", b"", soon())?;
        assert_eq!([second.wait()?, third.wait()?, of_2.wait()?], [[1], [2], [21]]);
        assert_eq!([receive(&pg, 0, 5), receive(&pg, 2, 5), receive(&pg, 2, 5)], [3, 22, 23]);
        pg.barrier()
    })
    .unwrap();
}

/// Receives are cancelled while messages arrive. Each message is received once and in order.
#[test]
fn cancelling_races_with_messages_and_loses_none() {
    for (count, messages) in [(1usize, 2000u32), (200_000, 60)] {
        c10d::run_ranks(2, |pg| {
            if pg.rank() == 0 {
                for i in 0..messages {
                    pg.send(&vec![i; count], 1, i % 2)?;
                }
                return pg.barrier();
            }
            let (mut buffer, mut seen, mut patience) = (vec![0u32; count], [0, 0], 0u32);
            for i in 0..messages {
                loop {
                    let work = pg.start(op::recv(buffer, 0, i % 2));
                    patience = patience.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (0..patience >> 22).for_each(|_| std::hint::spin_loop());
                    let taken = match work.cancel()? {
                        Cancel::Back(back) => Err(back),
                        Cancel::TooLate(work) => Ok(work.wait()?),
                    };
                    seen[usize::from(taken.is_ok())] += 1;
                    match taken {
                        Ok(message) => {
                            assert!(message.iter().all(|x| *x == i), "message {i}");
                            buffer = message;
                            break;
                        }
                        Err(back) => buffer = back,
                    }
                }
            }
            println!("{count} elements: {} receives were cancelled, {} had their message before", seen[0], seen[1]);
            pg.barrier()
        })
        .unwrap();
    }
}

/// A cancelled send that has not begun never arrives; a send that has begun cannot be cancelled.
#[test]
fn a_send_is_taken_back_before_it_begins() {
    const LARGE: usize = 32 << 20;
    c10d::run_ranks(2, |pg| {
        if pg.rank() == 1 {
            pg.store().get("cancelled", soon())?;
            assert_eq!(pg.recv(vec![0u8; LARGE], 0, 1)?, vec![1; LARGE]);
            assert_eq!([receive(&pg, 0, 2), receive(&pg, 0, 2)], [4, 5]);
            return pg.barrier();
        }
        let large = pg.start(op::send(vec![1u8; LARGE], 1, 1));
        let small = |i: u32| pg.start(op::send(vec![i], 1, 2));
        let (second, third, fourth) = (small(3), small(4), small(5));
        assert_eq!(back(second), [3]);
        let Ok(Cancel::TooLate(large)) = large.cancel() else { panic!("the send has begun") };
        pg.store().set("cancelled", b"", soon())?;
        large.wait()?;
        third.wait()?;
        fourth.wait()?;
        pg.barrier()
    })
    .unwrap();
}

#[test]
fn a_group_leaves_after_a_cancel() {
    c10d::run_ranks(2, |pg| {
        let other = 1 - pg.rank();
        back(pg.start(op::recv(vec![0u8], other, 0)));
        let mut x = [0u8];
        pg.scope(|s| {
            let Ok(Cancel::Back(x)) = s.start(op::recv(&mut x, other, 0)).cancel() else { panic!("nothing came") };
            *x = [9];
        });
        assert_eq!(x, [9]);
        let all = pg.start(op::all_reduce(vec![1u8], ReduceOp::Sum)).cancel();
        let work = match all {
            Err(refused) => {
                assert_eq!((refused.error.kind(), refused.error.status()), (&ErrorKind::Unsupported, Status::Rejected));
                refused.work
            }
            Ok(Cancel::TooLate(work)) => work,
            Ok(Cancel::Back(_)) => panic!("a collective cannot be cancelled"),
        };
        assert_eq!(work.wait()?, [2]);
        pg.shutdown_within(Duration::from_secs(10))
    })
    .unwrap();
}

#[test]
fn all_of_this_works_over_tcp() {
    jobs::again_over_tcp("all_of_this_works_over_tcp");
}
