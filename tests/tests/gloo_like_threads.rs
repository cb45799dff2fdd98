//! The suite over gloo-like, ranks as threads of one process.

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    Suite::new(c10d::builtin()).backend("cpu:gloo-like").main(Ranks::Threads)
}
