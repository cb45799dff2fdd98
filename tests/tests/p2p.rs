//! Point-to-point: tags, sources, order, threads.

mod stage;

use std::time::Duration;

use c10d::{ErrorKind, Status, op};

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
            // The last tag first: what nobody asks for yet must not stand in the way.
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
fn started_before_and_after_the_other_side() {
    c10d::run_ranks(2, |pg| {
        let other = 1 - pg.rank();
        // Both receive first: only started ops can do that.
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
fn large_messages_cross() {
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
fn threads_exchange_at_once_beside_collectives() {
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
fn nonsense_is_refused_and_nothing_was_sent() {
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
            // Stays until the other has given up.
            let gave_up = pg.store().get("gave up", std::time::Instant::now() + Duration::from_secs(10));
            return gave_up.map(|_| None);
        }
        let e = pg.run(op::recv(vec![0u8; 4], 1, 0).timeout(Duration::from_millis(200))).unwrap_err();
        pg.store().set("gave up", b"", std::time::Instant::now() + Duration::from_secs(10))?;
        Ok(Some(e))
    })
    .unwrap();
    let e = results[0].as_ref().unwrap();
    assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::Timeout, &[1][..]));
}

#[test]
fn all_of_this_over_tcp() {
    stage::again_over_tcp("all_of_this_over_tcp");
}
