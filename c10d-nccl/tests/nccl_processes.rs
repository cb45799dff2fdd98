//! The suite over the backend and the fake libraries, ranks as processes.

mod common;

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    common::again_with_fake(|| {
        let suite = Suite::new(&[&c10d_nccl::PROVIDER]).backend("cuda:nccl").device("cuda");
        suite.worlds(&[1, 2, 3, 4]).main(Ranks::Processes)
    })
}
