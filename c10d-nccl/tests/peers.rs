//! Tests that the other ranks learn of a rank's failure, through the CPU backend or through the store, before any
//! deadline. At a deadline, their error would be a `Timeout`.

use crate::common;

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{
    Builder, ENDED_WITHOUT_LEAVING, Error, ErrorKind, OpKind, ProcessGroup, ReduceOp, Result, Root, Store, op,
};
use c10d_rendezvous::tcp_store::ServerOptions;
use c10d_rendezvous::{TcpStore, TcpStoreServer};
use common::{SECOND, command, folder, on, with_cpu, with_fake, within};

/// A limit that is reached only if something hangs.
const CAP: Duration = Duration::from_secs(100);
const RANK: &str = "C10D_NCCL_TEST_RANK";
const PORT: &str = "C10D_NCCL_TEST_PORT";
/// The variable with the number of the rank that dies.
const MORTAL: &str = "C10D_NCCL_TEST_MORTAL";
/// The variable that says how the rank dies. With `abort`, its process aborts. With `idle`, its program ends while no
/// op runs. With `without cpu`, its program ends in a group without a CPU backend. Otherwise its program ends during an
/// op.
const END: &str = "C10D_NCCL_TEST_END";

/// Rank 1 aborts while all ranks are in a call that hangs. Returns the ranks' errors.
fn aborted(builder: Builder) -> Vec<Error> {
    let errors = within(CAP, || {
        builder.run_ranks(3, |pg| {
            let work = pg.start(op::all_reduce(on(pg.rank(), &[1f32; 10]), ReduceOp::Sum));
            if pg.rank() == 1 {
                pg.abort("enough");
            }
            Ok(work.wait().expect_err("the fault script lets the op hang").error)
        })
    });
    errors.unwrap()
}

#[test]
fn an_abort_reaches_the_peers() {
    with_fake("an_abort_reaches_the_peers", "hang=0", || {
        for e in aborted(with_cpu()) {
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Aborted, &[1][..]), "{e}");
            assert!(e.to_string().contains("enough"), "{e}");
        }
    });
}

/// Without a CPU backend, the ranks learn of an abort through the store.
#[test]
fn an_abort_reaches_the_peers_without_a_cpu_backend() {
    with_fake("an_abort_reaches_the_peers_without_a_cpu_backend", "hang=0", || {
        for e in aborted(common::builder().timeout(60 * SECOND)) {
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Aborted, &[1][..]), "{e}");
        }
    });
}

/// Runs an all-reduce that the fault script ends, and returns the error of each rank.
fn errors_of_both_ranks() -> Vec<Error> {
    let errors = within(CAP, || {
        with_cpu().run_ranks(2, |pg| {
            let mut x = on(pg.rank(), &[1f32; 10]);
            Ok(pg.all_reduce(&mut x, ReduceOp::Sum).map(drop).expect_err("the script ends it"))
        })
    });
    errors.unwrap()
}

#[test]
fn an_nccl_error_of_one_rank_reaches_the_others() {
    with_fake("an_nccl_error_of_one_rank_reaches_the_others", "error=0,rank=1", || {
        for e in errors_of_both_ranks() {
            assert!(e.to_string().contains("the fault script ends the connection"), "{e}");
        }
    });
}

#[test]
fn a_rank_without_locked_memory_is_named_by_all() {
    with_fake("a_rank_without_locked_memory_is_named_by_all", "unregistered=0,rank=1", || {
        for (rank, e) in errors_of_both_ranks().iter().enumerate() {
            let words = e.to_string();
            assert_eq!(*e.kind(), ErrorKind::Resource, "{words}");
            assert!(words.contains("no locked memory left (") && words.contains("limit"), "{words}");
            assert!(words.contains(if rank == 1 { "on rank 1" } else { "reported by rank 1" }), "{words}");
        }
    });
}

/// A rank of `run_job`, in a separate process.
#[test]
fn rank() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u32>().unwrap());
    let (Some(rank), Some(port), Some(mortal)) = (number(RANK), number(PORT), number(MORTAL)) else { return };
    let store = Arc::new(TcpStore::connect("127.0.0.1", port as u16, Instant::now() + 60 * SECOND).unwrap());
    let end = std::env::var(END).unwrap_or_default();
    let builder = if end == "without cpu" { common::builder().timeout(60 * SECOND) } else { with_cpu() };
    let pg = builder.rank(rank).size(3).store(store.clone()).build().unwrap();
    pg.all_reduce(on(rank, &[1f32; 10]), ReduceOp::Sum).unwrap();
    let soon = Instant::now() + 60 * SECOND;
    if end == "idle" {
        store.set(&format!("well/{rank}"), b"", soon).unwrap();
        store.wait(&["well/0", "well/1", "well/2"], soon).unwrap();
        if rank == mortal {
            std::process::exit(0);
        }
        // An op that needs the missing rank would fail within this time. No op runs, so the group must not fail.
        std::thread::sleep(3 * SECOND / 2);
        println!("rank {rank} is well: {}", pg.failure().is_none());
        // The first rank whose call needs the missing rank fails, and sends its error to the other rank. So neither
        // rank makes its call before both have printed that they are well.
        store.set(&format!("asked/{rank}"), b"", soon).unwrap();
        store.wait(&["asked/0", "asked/1"], soon).unwrap();
        let e: Error = pg.all_reduce(on(rank, &[1f32; 10]), ReduceOp::Sum).map(drop).expect_err("a rank is gone");
        println!("rank {rank} saw {} of {:?}: {e}", e.kind().name(), e.report().guilty);
        store.set(&format!("over/{rank}"), b"", soon).unwrap();
        store.wait(&["over/0", "over/1"], soon).unwrap();
        return;
    }
    let work = pg.start(op::all_reduce(on(rank, &[1f32; 10]), ReduceOp::Sum));
    store.set(&format!("well/{rank}"), b"", soon).unwrap();
    if rank == mortal {
        // Wait until the other ranks have started their second call.
        store.wait(&["well/0", "well/1", "well/2"], soon).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        if end == "abort" { std::process::abort() } else { std::process::exit(0) }
    }
    let e: Error = work.wait().expect_err("a rank is gone").error;
    println!("rank {rank} saw {} of {:?}: {e}", e.kind().name(), e.report().guilty);
    if end == "without cpu" {
        return;
    }
    let rest = pg.shrink(&e.report().guilty).unwrap();
    let mut x = on(rank, &[1f32 + rank as f32]);
    rest.all_reduce(&mut x, ReduceOp::Sum).unwrap();
    println!("rank {rank} goes on as {} of {}: {:?}", rest.rank(), rest.size(), x.to_vec::<f32>(60 * SECOND).unwrap());
}

#[test]
fn a_dead_peer_is_named_and_the_others_go_on() {
    a_peer_dies("dead", 2, "hang=1");
}

/// NCCL reports that a peer is lost, without naming it, before the peer has died.
#[test]
fn a_peer_that_nccl_loses_is_named() {
    a_peer_dies("lost", 2, "error=1");
}

/// The survivors have new numbers, and keep their GPUs.
#[test]
fn without_the_first_rank_the_others_go_on() {
    a_peer_dies("first", 0, "hang=1");
}

/// A program ends without dropping its groups, while an op runs.
#[test]
fn an_ended_program_is_named_by_running_ops() {
    for (said, rank) in a_peer_ends("exit", 2, "hang=1") {
        assert!(said.contains(&format!("rank {rank} saw PeerDead of [2]")), "{said}");
        assert!(said.contains(ENDED_WITHOUT_LEAVING), "{said}");
        assert!(said.contains(&format!("rank {rank} goes on as {rank} of 2")), "{said}");
    }
}

/// A program ends without dropping its groups, while an op runs, in a group without a CPU backend.
#[test]
fn an_ended_program_is_reported_without_a_cpu_backend() {
    for (said, rank) in a_peer_ends("without cpu", 2, "hang=1") {
        assert!(said.contains(&format!("rank {rank} saw PeerDead of [2]")), "{said}");
        assert!(said.contains(ENDED_WITHOUT_LEAVING), "{said}");
    }
}

/// A program ends without dropping its groups, while no op runs. The next op of the other ranks fails.
#[test]
fn an_ended_program_fails_ops_that_need_it() {
    for (said, rank) in a_peer_ends("idle", 2, "") {
        assert!(said.contains(&format!("rank {rank} is well: true")), "{said}");
        assert!(said.contains(&format!("rank {rank} saw PeerDead of [2]")), "{said}");
        assert!(said.contains(ENDED_WITHOUT_LEAVING), "{said}");
    }
}

fn a_peer_dies(name: &str, mortal: u32, survivors: &str) {
    let said = run_job(name, mortal, survivors, "abort");
    let ranks: Vec<u32> = (0..3).filter(|rank| *rank != mortal).collect();
    let sum = (ranks.len() as u32 + ranks.iter().sum::<u32>()) as f32;
    for (place, rank) in ranks.iter().enumerate() {
        let said = &said[*rank as usize];
        assert!(said.contains(&format!("rank {rank} saw PeerDead of [{mortal}]")), "{said}");
        assert!(said.contains(&format!("rank {rank} goes on as {place} of 2: [{sum:.1}]")), "{said}");
    }
}

/// Like `run_job`, but returns only the output and the number of each survivor.
fn a_peer_ends(end: &str, mortal: u32, survivors: &str) -> Vec<(String, u32)> {
    let said = run_job(end, mortal, survivors, end);
    said.into_iter().zip(0..).filter(|(_, rank)| *rank != mortal).collect()
}

/// Runs three ranks, of which `mortal` dies (see [`END`]). `survivors` is the fault script of the other two. Returns
/// the output of each rank.
fn run_job(name: &str, mortal: u32, survivors: &str, end: &str) -> Vec<String> {
    let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default()).unwrap();
    let dir = folder(name);
    let start = |rank: u32| {
        let hangs = rank == mortal && end != "idle";
        let mut command = command(&dir, if hangs { "hang=1" } else { survivors });
        command.env(END, end);
        command.env(RANK, rank.to_string()).env(PORT, server.local_addr().port().to_string());
        command.env(MORTAL, mortal.to_string());
        command.args(["peers::rank", "--exact", "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let ranks: Vec<_> = (0..3).map(start).collect();
    let said = within(CAP, || ranks.into_iter().map(|r| r.wait_with_output().unwrap()).collect::<Vec<_>>());
    let _ = std::fs::remove_dir_all(dir);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    said.iter().map(|o| format!("{}\n{}", text(&o.stdout), text(&o.stderr))).collect()
}

#[test]
fn calls_that_differ_are_a_mismatch() {
    with_fake("calls_that_differ_are_a_mismatch", "hang=0", || {
        let errors = within(CAP, || {
            with_cpu().run_ranks(3, |pg| {
                let count = if pg.rank() == 1 { 11 } else { 10 };
                let mut x = on(pg.rank(), &vec![1f32; count]);
                Ok(pg.all_reduce(&mut x, ReduceOp::Sum).map(drop).expect_err("they disagree"))
            })
        });
        for e in errors.unwrap() {
            assert!(matches!(e.kind(), ErrorKind::Mismatch { field: "count", .. }), "{e}");
        }
    });
}

fn rooted(pg: &ProcessGroup, op: OpKind, root: u32) -> Result {
    let me = pg.rank();
    let one = || on(me, &[me; 4]);
    let all = || (0..pg.size()).map(|_| one()).collect::<Vec<_>>();
    match op {
        OpKind::Broadcast => pg.broadcast(&mut one(), root).map(drop),
        OpKind::Reduce => pg.reduce(&mut one(), ReduceOp::Sum, root).map(drop),
        OpKind::Gather => pg.gather(one(), if me == root { Root::Me(all()) } else { Root::At(root) }).map(drop),
        _ => pg.scatter(if me == root { Root::Me(all()) } else { Root::At(root) }, one()).map(drop),
    }
}

/// A rank compares its call only with the call of the rank before it. If these calls agree and the rank only sends, its
/// call may succeed. A peer then tells the rank of the mismatch during a later call. In each case, the error names the
/// call at which the ranks differ.
#[test]
fn roots_that_differ_are_a_mismatch() {
    use OpKind::{Broadcast, Gather, Reduce, Scatter};
    let calls = [
        (Broadcast, 0),
        (Broadcast, 1),
        (Reduce, 0),
        (Reduce, 1),
        (Gather, 0),
        (Gather, 1),
        (Scatter, 0),
        (Scatter, 1),
    ];
    with_fake("roots_that_differ_are_a_mismatch", "", || {
        for (i, (usual, other)) in calls.iter().flat_map(|a| calls.map(|b| (*a, b))).enumerate() {
            // Only a third of the cases are tested, alternately with two and with three ranks.
            if usual == other || i % 3 != 0 {
                continue;
            }
            let world = 2 + i as u32 / 3 % 2;
            let errors = within(CAP, || {
                with_cpu().run_ranks(world, |pg| {
                    let (op, root) = if pg.rank() == 1 { other } else { usual };
                    // The other ranks may report the mismatch before this rank's first call has ended.
                    let mut x = on(pg.rank(), &[1f32; 4]);
                    let first = pg.all_reduce(&mut x, ReduceOp::Sum).map(drop);
                    Ok((op, first.err().or_else(|| (0..8).find_map(|_| rooted(&pg, op, root).err()))))
                })
            });
            for (op, error) in errors.unwrap() {
                let e = error
                    .unwrap_or_else(|| panic!("{usual:?} {other:?} in a world of {world}: {op} returned no error"));
                let (report, what) = (e.report(), format!("{usual:?} {other:?} in a world of {world}: {e}"));
                assert!(matches!(report.kind, ErrorKind::Mismatch { field: "op" | "root", .. }), "{what}");
                assert!(report.op == Some(usual.0) || report.op == Some(other.0), "{what}");
                assert!(report.seq == Some(1) && !report.guilty.is_empty(), "{what}");
            }
        }
    });
}

/// The receiver compares the calls, and reports a mismatch to the sender. Tags are not compared, since NCCL has none.
#[test]
fn messages_that_differ_are_a_mismatch() {
    with_fake("messages_that_differ_are_a_mismatch", "hang=2", || {
        let errors = within(CAP, || {
            with_cpu().run_ranks(2, |pg| {
                let (rank, other) = (pg.rank(), 1 - pg.rank());
                if rank == 0 {
                    pg.send(&on(0, &[5i32; 4]), other, 1)?;
                    pg.send(&on(0, &[5i32; 4]), other, 2)?;
                } else {
                    pg.recv(&mut on(1, &[0i32; 4]), other, 2)?;
                    pg.recv(&mut on(1, &[0i32; 4]), other, 1)?;
                }
                let wrong = if rank == 0 { pg.send(on(0, &[1f32; 4]), 1, 0) } else { pg.recv(on(1, &[1i32; 4]), 0, 0) };
                Ok(wrong.map(drop).expect_err("they disagree"))
            })
        });
        let errors = errors.unwrap();
        for e in &errors {
            assert!(matches!(e.kind(), ErrorKind::Mismatch { field: "dtype", .. }), "{e}");
        }
        assert_eq!(errors[1].report().guilty, [0], "{}", errors[1]);
    });
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    with_fake("a_rank_that_does_not_come_is_named", "", || {
        let errors = within(CAP, || {
            with_cpu().run_ranks(2, |pg| {
                if pg.rank() == 1 {
                    // This receive ends when the other rank has failed.
                    let mut x = on(1, &[1f32; 10]);
                    return Ok(pg.recv(&mut x, 0, 0).map(drop).expect_err("nothing comes"));
                }
                let call = op::all_reduce(on(0, &[1f32; 10]), ReduceOp::Sum).timeout(SECOND);
                Ok(pg.start(call).wait().expect_err("nobody else comes").error)
            })
        });
        let e = &errors.unwrap()[0];
        assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Timeout, &[1][..]), "{e}");
    });
}

#[test]
fn leaving_at_different_times_is_no_failure() {
    with_fake("leaving_at_different_times_is_no_failure", "", || {
        let left = with_cpu().run_ranks(3, |pg| {
            let mut x = on(pg.rank(), &[1f32; 10]);
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            std::thread::sleep(Duration::from_millis(50) * pg.rank());
            let clone = pg.clone();
            pg.shutdown()?;
            // The only failure that the rank's group reports is its own shutdown.
            Ok(clone.failure().map(|e| e.kind().clone()))
        });
        assert_eq!(left.unwrap(), vec![Some(ErrorKind::Shutdown); 3]);
    });
}
