//! The suite over gloo-like, ranks as processes, shared memory between them.

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    Suite::new(c10d::builtin()).backend("cpu:gloo-like").hint("gloo-like.transport", "shm").main(Ranks::Processes)
}
