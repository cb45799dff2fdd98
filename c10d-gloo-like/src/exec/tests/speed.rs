//! Measures the time of an op: `C10D_SPEED=1 cargo test --release -p c10d-gloo-like --lib -- --nocapture
//! exec::tests::speed`.
//!
//! In a world of two ranks, each rank is pinned to a core. In a world of four, the ranks are not pinned, and do not
//! spin. The numbers are the median and the best of seven runs.

use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::*;

fn pin(core: u32) {
    let mut set = CpuSet::new();
    set.set(core as usize);
    let _ = sched_setaffinity(None, &set);
}

fn measure(world: u32, transport: Transport) {
    ranks_with(world, transport, world > 2, |rank| {
        if world == 2 {
            pin(rank.me.rank);
        }
        for how in [Algorithm::OneShot, Algorithm::Direct] {
            for len in [2, 256, 1024, 2048, 4096, 16 << 10, 64 << 10, 256 << 10, 4 << 20, 16 << 20] {
                if how == Algorithm::OneShot && len > 64 << 10 {
                    continue;
                }
                let mut data = vec![1u32; len];
                let iters = (50_000_000 / (len * 4 + 2000)).clamp(3, 20_000);
                let mut times: Vec<Duration> = (0..7)
                    .map(|_| {
                        let start = Instant::now();
                        (0..iters).for_each(|_| rank.all_reduce(how, &mut data).unwrap());
                        start.elapsed() / iters as u32
                    })
                    .collect();
                times.sort();
                if rank.me.rank == 0 {
                    println!(
                        "{world} {:>5} {:>10} {:>9} B  {:>12.3?} (best {:.3?})",
                        transport.name(),
                        how.name(),
                        len * 4,
                        times[3],
                        times[0]
                    );
                }
            }
        }
        // This measures only the executor: the plan has no steps.
        let start = Instant::now();
        for _ in 0..1_000_000 {
            rank.run(OpKind::Barrier, 0, &[], &mut [], |_, _| ()).unwrap();
        }
        println!("empty plan: {:?}", start.elapsed() / 1_000_000);
    });
}

#[test]
fn speed() {
    if std::env::var_os("C10D_SPEED").is_none() {
        println!("skipped: this is a measurement; set C10D_SPEED=1 to run it");
        return;
    }
    for world in [2, 4] {
        TRANSPORTS.into_iter().for_each(|transport| measure(world, transport));
    }
}
