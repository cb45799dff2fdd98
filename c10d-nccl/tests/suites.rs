//! Runs the suite with the fake libraries: NCCL's collectives with ranks as threads; and, with ranks as processes,
//! NCCL's collectives beside a CPU backend, and CUDA buffers that are staged through the CPU backend.

mod common;

use std::process::ExitCode;

use c10d_conformance::{Program, Ranks, Suite};
use c10d_core::backend::Provider;

fn main() -> ExitCode {
    common::again_with_fake(|| {
        let both: [&'static Provider; 2] = [&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER];
        let suite = |providers: &[&'static Provider], map: &str| {
            Suite::new(providers).backend(map).device("cuda").worlds(&[1, 2, 3, 4])
        };
        Program::default()
            .suite("nccl_threads", suite(&both[..1], "cuda:nccl"), Ranks::Threads)
            .suite("nccl_processes", suite(&both, "cpu:gloo-like,cuda:nccl"), Ranks::Processes)
            .suite("staged_processes", suite(&both, "cuda:gloo-like"), Ranks::Processes)
            .main()
    })
}
