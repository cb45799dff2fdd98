//! The suite over gloo-like, ranks as processes, TCP between them.

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    Suite::new(c10d::builtin()).backend("cpu:gloo-like").hint("gloo-like.transport", "tcp").main(Ranks::Processes)
}
