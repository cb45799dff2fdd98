//! Counts the instructions of one blocking 8-byte all-reduce: over gloo-like with one rank, over gloo-like with two
//! ranks that share memory, and over two backends that do nothing. The count of `nothing` is the cost of dispatch. The
//! backend `jobs` takes each call as a job, as backends with an own thread do. The counts hardly depend on the load of
//! the machine. The bench fails if a count is more than 5 % above its baseline. Without
//! `valgrind`, it skips all counts.
//!
//! ```text
//! cargo bench --bench instructions
//! ```

#![allow(unsafe_code)]

use std::process::Command;
use std::sync::Arc;

use c10d::backend::{Backend, Capabilities, Job, Provider, Registration, Request};
use c10d::{DispatchKey, Error, ReduceOp, Result};

/// A backend that does nothing. It runs a call on the caller's thread, or takes a job if `by_job` is set.
struct Nothing {
    by_job: bool,
}

// SAFETY: `submit` completes each job before it returns, so no memory is used afterwards.
unsafe impl Backend for Nothing {
    fn name(&self) -> &'static str {
        if self.by_job { "jobs" } else { "nothing" }
    }
    fn capabilities(&self) -> &Capabilities {
        &Capabilities::ALL
    }
    fn submit(&self, job: Job) {
        job.complete(Ok(()));
    }
    fn run(&self, _: &Request) -> Option<Result> {
        (!self.by_job).then_some(Ok(()))
    }
    fn abort(&self, _: &Error) {}
}

static NOTHING: Provider = Provider {
    source: "instructions",
    backends: &[
        Registration {
            name: "nothing",
            keys: &[DispatchKey::Cpu],
            priority: 0,
            probe: &|| Ok(()),
            create: &|_| Ok(Arc::new(Nothing { by_job: false })),
        },
        Registration {
            name: "jobs",
            keys: &[DispatchKey::Cpu],
            priority: 0,
            probe: &|| Ok(()),
            create: &|_| Ok(Arc::new(Nothing { by_job: true })),
        },
    ],
    ..Provider::EMPTY
};

/// Joins a group, makes `calls` calls, and ends the process.
fn call(backend: &str, rank: u32, world: u32, store: &str, calls: u64) -> Result<()> {
    let builder = c10d::builder().providers(&[&NOTHING]).backend(backend);
    let pg =
        if world == 1 { builder } else { builder.init(&format!("{store}?rank={rank}&world_size={world}")) }.build()?;
    let mut x = [1f32, 2.0];
    for _ in 0..calls {
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
    }
    std::process::exit(0)
}

/// Returns the number of instructions of rank 0 in a group in which each rank makes `calls` calls, or `None` if
/// valgrind fails. Only rank 0 runs under valgrind, which makes it slow. So the items of rank 1 have usually arrived
/// when rank 0 looks for them, and rank 0 runs no instructions to wait.
fn instructions(backend: &str, world: u32, calls: u64) -> Option<u64> {
    let file = |what: &str| std::env::temp_dir().join(format!("c10d-instructions-{what}-{}", std::process::id()));
    let (counts, store) = (file("counts"), file("store"));
    let program = std::env::current_exe().ok()?;
    let url = format!("file://{}", store.display());
    let arguments = |rank: u32| [backend.into(), rank.to_string(), world.to_string(), url.clone(), calls.to_string()];
    let peers = (1..world).map(|rank| Command::new(&program).args(arguments(rank)).spawn());
    let peers: Vec<_> = peers.collect::<Result<_, _>>().ok()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--tool=callgrind", &format!("--callgrind-out-file={}", counts.display())]);
    let ran = valgrind.arg(&program).args(arguments(0)).status();
    for mut peer in peers {
        if ran.as_ref().is_ok_and(|ran| !ran.success()) {
            let _ = peer.kill();
        }
        let _ = peer.wait();
    }
    let text = std::fs::read_to_string(&counts).ok();
    let _ = std::fs::remove_file(&counts);
    let _ = std::fs::remove_file(&store);
    let total = text?.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.filter(|_| ran.is_ok_and(|ran| ran.success()))
}

/// The backend, the world size and the instructions of one call, counted with Rust 1.95 on x86-64. The message of a
/// commit that changes these numbers must say why.
const BASELINES: [(&str, u32, f64); 4] =
    [("gloo-like", 1, 1010.0), ("gloo-like", 2, 1250.0), ("nothing", 1, 435.0), ("jobs", 1, 651.0)];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [backend, rank, world, store, calls] = &args[..]
        && let (Ok(rank), Ok(world), Ok(calls)) = (rank.parse(), world.parse(), calls.parse())
    {
        return call(backend, rank, world, store, calls);
    }
    const FEW: u64 = 2_000;
    const MANY: u64 = 42_000;
    let mut risen = false;
    for (backend, world, baseline) in BASELINES {
        // If the operating system does not run the peer for a while, rank 0 runs instructions to wait for the peer's
        // items. The smallest count of several runs does not include these instructions.
        let least =
            |calls| (0..if world == 1 { 1 } else { 5 }).filter_map(|_| instructions(backend, world, calls)).min();
        match (least(FEW), least(MANY)) {
            (Some(few), Some(many)) => {
                let each = (many - few) as f64 / (MANY - FEW) as f64;
                println!("{backend}, world size {world}: {each:.0} instructions per call (baseline {baseline:.0})");
                risen |= each > baseline * 1.05;
            }
            _ => println!("skipped: {backend}, world size {world}: valgrind is missing or failed"),
        }
    }
    if risen {
        eprintln!("a call has more than 5 % more instructions than its baseline");
        std::process::exit(1);
    }
    Ok(())
}
