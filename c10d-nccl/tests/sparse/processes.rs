//! Ranks as processes.

use std::sync::Arc;

use c10d_core::{ProcessGroup, Store};
use c10d_rendezvous::tcp_store::ServerOptions;
use c10d_rendezvous::{TcpStore, TcpStoreServer};

use super::*;

const PORT: &str = "C10D_NCCL_TEST_PORT";
const PLACE: &str = "C10D_NCCL_TEST_PLACE";

/// A rank of the tests with processes. `PLACE` has the rank's number, the world size and the test's name.
#[test]
fn rank() {
    let (Ok(place), Ok(port)) = (std::env::var(PLACE), std::env::var(PORT)) else { return };
    let words: Vec<&str> = place.split(' ').collect();
    let (rank, size): (u32, u32) = (words[0].parse().unwrap(), words[1].parse().unwrap());
    let store = TcpStore::connect("127.0.0.1", port.parse().unwrap(), Instant::now() + 20 * SECOND).unwrap();
    let store = Arc::new(store);
    let pg = with_cpu().rank(rank).size(size).store(store.clone()).build().unwrap();
    if words[2] == "killed" {
        return killed(&pg, &*store);
    }
    for (round, (shape, sparse)) in SHAPES.into_iter().enumerate() {
        let value = |x: u64| x as i32;
        let of = |rank: u32| {
            let mut random = Random(100 * round as u64 + u64::from(rank));
            tensor(shape, sparse, 300 * (rank as usize + round) % 1000, &mut random, value)
        };
        let want = reference(&(0..size).map(of).collect::<Vec<_>>(), i32::wrapping_add);
        let sum = fetched::<i32>(&pg.all_reduce(sent(&of(rank), rank), ReduceOp::Sum).unwrap());
        assert!(sum.is_coalesced() && entries(&sum).eq(want), "{shape:?}");
    }
    pg.shutdown().unwrap();
    println!("rank {rank} is well");
}

/// A rank of the test in which rank 1 is killed between the first and the second call.
fn killed(pg: &ProcessGroup, store: &dyn Store) {
    let one = || sent(&Coo::new([9], 1, vec![3], vec![1i32]).unwrap(), pg.rank());
    pg.all_reduce(one(), ReduceOp::Sum).unwrap();
    let soon = Instant::now() + 20 * SECOND;
    if pg.rank() == 1 {
        store.wait(&["well/0", "well/2"], soon).unwrap();
        std::process::abort();
    }
    store.set(&format!("well/{}", pg.rank()), b"", soon).unwrap();
    let e = pg.all_reduce(one(), ReduceOp::Sum).unwrap_err();
    println!("rank {} saw {} of {:?}", pg.rank(), e.kind().name(), e.report().guilty);
}

/// Runs `size` ranks as processes. The output of each rank must contain the text that `words` returns for it, if any.
fn processes(name: &str, size: u32, words: impl Fn(u32) -> Option<String>) {
    let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default()).unwrap();
    let dir = common::folder(&format!("{name}-{size}"));
    let start = |rank: u32| {
        // Each sparse call makes three launches of NCCL. So launch 3, which hangs, is the first of the second call, for
        // which the killed rank is missing.
        let mut command = common::command(&dir, if name == "killed" { "hang=3" } else { "" });
        command.env(PLACE, format!("{rank} {size} {name}")).env(PORT, server.local_addr().port().to_string());
        command.args(["sparse::processes::rank", "--exact", "--nocapture"]);
        std::thread::spawn(|| common::output(command))
    };
    let ranks: Vec<_> = (0..size).map(start).collect();
    for (rank, ended) in (0..).zip(ranks) {
        let output = ended.join().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(words(rank).is_none_or(|words| out.contains(&words)), "rank {rank} of {size}:\n{out}\n{err}");
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn sums_over_processes() {
    (1..=4).for_each(|size| processes("sums", size, |rank| Some(format!("rank {rank} is well"))));
}

#[test]
fn a_peer_is_killed() {
    processes("killed", 3, |rank| (rank != 1).then(|| format!("rank {rank} saw PeerDead of [1]")));
}
