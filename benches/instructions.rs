//! Counts the instructions of one blocking 8-byte all-reduce in a world of one, over gloo-like and over a backend that
//! does nothing. The number is the cost of dispatch, and does not depend on the load of the machine. It needs
//! `valgrind`.
//!
//! ```text
//! cargo bench --bench instructions
//! ```

#![allow(unsafe_code)]

use std::process::Command;
use std::sync::Arc;

use c10d::backend::{Backend, Capabilities, Job, Provider, Registration};
use c10d::{DispatchKey, Error, ReduceOp, Result};

struct Nothing;

// SAFETY: it completes every job at once, and keeps nothing.
unsafe impl Backend for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }
    fn capabilities(&self) -> &Capabilities {
        &Capabilities::ALL
    }
    fn submit(&self, job: Job) {
        job.complete(Ok(()));
    }
    fn abort(&self, _: &Error) {}
}

static NOTHING: Provider = Provider {
    source: "instructions",
    backends: &[Registration {
        name: "nothing",
        keys: &[DispatchKey::Cpu],
        priority: 0,
        probe: &|| Ok(()),
        create: &|_| Ok(Arc::new(Nothing)),
    }],
    ..Provider::EMPTY
};

/// Makes the counted calls, in a separate process.
fn call(backend: &str, calls: u64) -> Result<()> {
    let pg = c10d::builder().providers(&[&NOTHING]).backend(backend).build()?;
    let mut x = [1f32, 2.0];
    for _ in 0..calls {
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
    }
    std::process::exit(0)
}

/// The instructions of a process that makes this number of calls.
fn instructions(backend: &str, calls: u64) -> Option<u64> {
    let file = std::env::temp_dir().join(format!("c10d-instructions-{}", std::process::id()));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--tool=callgrind", &format!("--callgrind-out-file={}", file.display())]);
    valgrind.arg(std::env::current_exe().ok()?).args([backend, &calls.to_string()]);
    let ran = valgrind.status().ok()?;
    let text = std::fs::read_to_string(&file).ok();
    let _ = std::fs::remove_file(&file);
    let total = text?.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.filter(|_| ran.success())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [backend, calls] = &args[..]
        && let Ok(calls) = calls.parse()
    {
        return call(backend, calls);
    }
    const FEW: u64 = 2_000;
    const MANY: u64 = 12_000;
    for backend in ["gloo-like", "nothing"] {
        match (instructions(backend, FEW), instructions(backend, MANY)) {
            (Some(few), Some(many)) => {
                println!("{backend}: {:.1} instructions per call", (many - few) as f64 / (MANY - FEW) as f64);
            }
            _ => println!("{backend}: not measured, for valgrind is missing or did not succeed"),
        }
    }
    Ok(())
}
