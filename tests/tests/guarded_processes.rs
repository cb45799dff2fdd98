//! The suite over the guarded device, staged through gloo-like, ranks as processes.

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    let mut providers = c10d::builtin().to_vec();
    providers.push(&c10d_guarded::PROVIDER);
    Suite::new(&providers)
        .backend("guarded:gloo-like")
        .device("guarded")
        .hint("staged.chunk", "65536")
        .worlds(&[1, 2, 3, 4])
        .main(Ranks::Processes)
}
