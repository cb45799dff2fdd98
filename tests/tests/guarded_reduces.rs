//! The suite over a guarded device that reduces by itself, ranks as threads.

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    let mut providers = c10d::builtin().to_vec();
    providers.push(&c10d_guarded::PROVIDER);
    Suite::new(&providers)
        .backend("guarded-reduces:gloo-like")
        .device("guarded-reduces")
        .hint("staged.chunk", "65536")
        .worlds(&[1, 2, 3, 4])
        .main(Ranks::Threads)
}
