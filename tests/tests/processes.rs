//! The suite over gloo-like and over two tiers, and tests whose ranks are mostly processes. The program starts itself
//! again as these ranks.

mod jobs;
mod samples;

mod blame;
mod faults;
mod floods;
mod forks;
mod group_bufs;
mod joining;
mod large_counts;
mod leave;
mod limits;
mod mesh;
mod namespaces;
mod netns;
mod objects;
mod reductions;
mod roots;
mod sparse;
mod tables;
mod tiered;
#[path = "../../c10d-mpi/tests/wheels/mod.rs"]
mod wheels;

use std::process::ExitCode;

use c10d_conformance::{Program, Ranks, Suite};

fn main() -> ExitCode {
    let parts: &[(&str, jobs::RunPart)] = &[
        ("blame", blame::run_part),
        ("faults", faults::run_part),
        ("floods", floods::run_part),
        ("forks", forks::run_part),
        ("group_bufs", group_bufs::run_part),
        ("joining", joining::run_part),
        ("large_counts", large_counts::run_part),
        ("leave", leave::run_part),
        ("limits", limits::run_part),
        ("mesh", mesh::run_part),
        ("namespaces", namespaces::run_part),
        ("netns", netns::run_part),
        ("objects", objects::run_part),
        ("reductions", reductions::run_part),
        ("roots", roots::run_part),
        ("sparse", sparse::run_part),
        ("tables", tables::run_part),
    ];
    if let Some(code) = jobs::run_part(parts) {
        return code;
    }
    let suite = || Suite::new(c10d::builtin()).backend("cpu:gloo-like");
    let over = |transport| suite().hint("gloo-like.transport", transport);
    let tiered: Vec<_> = c10d::builtin().iter().copied().chain([&jobs::PAIR]).collect();
    let tiered = Suite::new(&tiered).backend("cpu:gloo-like+gloo-like").hint("tiered.ranks-per-host", "2");
    Program::default()
        .suite("gloo_like_threads", suite(), Ranks::Threads)
        .suite("tiered_threads", tiered.hint("tiered.least", "1"), Ranks::Threads)
        .suite("gloo_like_shm", over("shm"), Ranks::Processes)
        .suite("gloo_like_tcp", over("tcp"), Ranks::Processes)
        .trials(blame::trials())
        .trials(faults::trials())
        .trials(floods::trials())
        .trials(forks::trials())
        .trials(group_bufs::trials())
        .trials(joining::trials())
        .trials(large_counts::trials())
        .trials(leave::trials())
        .trials(limits::trials())
        .trials(mesh::trials())
        .trials(namespaces::trials())
        .trials(netns::trials())
        .trials(objects::trials())
        .trials(reductions::trials())
        .trials(roots::trials())
        .trials(sparse::trials())
        .trials(tables::trials())
        .trials(tiered::trials())
        .main()
}
