//! The suite over the guarded device (a simulated device), staged through gloo-like, and tests of faults. This is a
//! separate program, because in a program that links the device, every group serves the device.

mod guarded_faults;
mod jobs;

use std::process::ExitCode;

use c10d_conformance::{Program, Ranks, Suite};

fn main() -> ExitCode {
    if let Some(code) = jobs::run_part(&[("guarded_faults", guarded_faults::run_part)]) {
        return code;
    }
    let suite = |device: &str| {
        let providers: Vec<_> = c10d::builtin().iter().copied().chain([&c10d_guarded::PROVIDER]).collect();
        let suite = Suite::new(&providers).backend(&format!("{device}:gloo-like")).device(device);
        suite.hint("staged.chunk", "65536").worlds(&[1, 2, 3, 4])
    };
    Program::default()
        .suite("guarded_threads", suite("guarded"), Ranks::Threads)
        .suite("guarded_reduces", suite("guarded-reduces"), Ranks::Threads)
        .suite("guarded_processes", suite("guarded"), Ranks::Processes)
        .trials(guarded_faults::trials())
        .main()
}
