//! The suite over CUDA buffers that the CPU backend serves, with the fake driver; ranks as processes.

mod common;

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    common::again_with_fake(|| {
        let suite = Suite::new(&[&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER]).backend("cuda:gloo-like");
        suite.device("cuda").worlds(&[1, 2, 3, 4]).main(Ranks::Processes)
    })
}
