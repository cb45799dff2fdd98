//! The suite over the backend and the fake libraries, ranks as processes, a CPU backend beside it.

mod common;

use std::process::ExitCode;

use c10d_conformance::{Ranks, Suite};

fn main() -> ExitCode {
    common::again_with_fake(|| {
        let providers = [&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER];
        let suite = Suite::new(&providers).backend("cpu:gloo-like,cuda:nccl").device("cuda");
        suite.worlds(&[1, 2, 3, 4]).main(Ranks::Processes)
    })
}
