//! A rank in Rust of the jobs of `test_mixed.py`, which have ranks in Rust and in Python.
//!
//! `rank_in_rust FAULT GUILTY FORM FOLDER`: the rank `GUILTY` has the fault `FAULT`, and the other ranks make a call in
//! the form `FORM`: `blocking`, `async` or `subgroup`. `FOLDER` has the files by which the ranks wait for each other.
//! The program prints the error of the call: `kind|guilty ranks|op|time|text`.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use c10d::{Call, ProcessGroup, ReduceOp, Result, buffer::Buffers, op};
use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{ClockId, clock_gettime};

/// The timeout of everything that must not time out.
const LONG: Duration = Duration::from_secs(120);
/// The timeout of the call if a rank is stopped.
const SHORT: Duration = Duration::from_secs(8);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [fault, guilty, form, folder] = arguments.try_into().expect("there are four arguments");
    let guilty: u32 = guilty.parse().expect("the guilty rank is a number");
    let folder = PathBuf::from(folder);
    let whole = c10d::builder().init("env://").timeout(LONG).build()?;
    let first = u32::from(form == "subgroup");
    let pg = if form == "subgroup" {
        // All ranks except rank 0 are members of the sub-group. PyTorch names it "1".
        let store = c10d::init("env://", LONG)?.store;
        c10d::builder().name("1").rank(whole.rank() - 1).size(whole.size() - 1).store(store).timeout(LONG).build()?
    } else {
        whole.clone()
    };
    pg.barrier()?;
    meet(&folder, whole.rank(), first..whole.size());
    let mut call = "all_reduce";
    if whole.rank() == guilty {
        fs::write(folder.join("fault"), now().to_string()).expect("the time of the fault is written");
        match fault.as_str() {
            "killed" => kill_process(getpid(), Signal::KILL).expect("it kills itself"),
            "stopped" => kill_process(getpid(), Signal::STOP).expect("it stops itself"),
            "left" => return pg.shutdown(),
            "exited" => std::process::exit(0),
            "raised" => panic!("a mistake of the program's"),
            _ => call = &fault,
        }
    }
    let limit = if fault == "stopped" { SHORT } else { LONG };
    let Err(error) = act(&pg, call, &form, limit) else {
        println!("none|||{}|nothing was raised", now());
        return Ok(());
    };
    let at = now();
    let report = error.report();
    let guilty: Vec<String> = report.guilty.iter().map(u32::to_string).collect();
    let op = report.op.map_or("", |op| op.name());
    println!("{}|{}|{op}|{at}|{}", report.kind.name(), guilty.join(","), error.to_string().replace('\n', " "));
    if fault == "killed" {
        // With PyTorch 2.10 this fails, because the Python ranks do not take part.
        match shrunk(&pg, &report.guilty) {
            Ok(words) => println!("{words}"),
            Err(e) => println!("{e}"),
        }
    }
    Ok(())
}

/// Makes a group without these ranks. Returns the sum of the ranks in this group, and its size.
fn shrunk(pg: &ProcessGroup, lost: &[u32]) -> Result<String> {
    let left = pg.shrink(lost)?;
    let mut x = [left.rank() as f32];
    left.all_reduce(&mut x, ReduceOp::Sum)?;
    Ok(format!("{} of {}", x[0], left.size()))
}

/// Makes the usual call, `all_reduce`, or a call that differs from it.
fn act(pg: &ProcessGroup, name: &str, form: &str, limit: Duration) -> Result {
    let ones = |count| vec![1f32; count];
    match name {
        "all_reduce" => run(pg, form, op::all_reduce(ones(1000), ReduceOp::Sum).timeout(limit)),
        "count" => run(pg, form, op::all_reduce(ones(1001), ReduceOp::Sum).timeout(limit)),
        "dtype" => run(pg, form, op::all_reduce(vec![1f64; 1000], ReduceOp::Sum).timeout(limit)),
        "reduce_op" => run(pg, form, op::all_reduce(ones(1000), ReduceOp::Max).timeout(limit)),
        "op" => run(pg, form, op::all_gather_into(ones(7), ones(7 * pg.size() as usize)).timeout(limit)),
        other => panic!("there is no call {other}"),
    }
}

fn run<B>(pg: &ProcessGroup, form: &str, call: Call<B>) -> Result
where
    B: Buffers + 'static,
    B::Back: Send,
{
    match form {
        "async" => pg.start(call).wait()?,
        _ => pg.run(call)?,
    };
    Ok(())
}

/// Waits until all of these ranks have called this function, like `Rank.meet` of `job.py`.
fn meet(folder: &Path, rank: u32, ranks: Range<u32>) {
    fs::write(folder.join(format!("ready-{rank}")), "").expect("this rank is marked as ready");
    let begin = Instant::now();
    for peer in ranks {
        while !folder.join(format!("ready-{peer}")).exists() {
            assert!(begin.elapsed() < LONG, "rank {peer} is not ready");
            sleep(Duration::from_millis(10));
        }
    }
}

/// Returns the time of Python's `time.monotonic()`.
fn now() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
