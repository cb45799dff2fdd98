//! The suite over gloo-like, and tests with processes as ranks: faults, limits, namespaces, sparse calls. The program
//! starts itself again as the ranks.

mod samples;
mod stage;

mod blame;
mod faults;
mod floods;
mod forks;
mod group_bufs;
mod joining;
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
    let parts: &[(&str, stage::Play)] = &[
        ("blame", blame::play),
        ("faults", faults::play),
        ("floods", floods::play),
        ("forks", forks::play),
        ("group_bufs", group_bufs::play),
        ("joining", joining::play),
        ("leave", leave::play),
        ("limits", limits::play),
        ("mesh", mesh::play),
        ("namespaces", namespaces::play),
        ("netns", netns::play),
        ("objects", objects::play),
        ("reductions", reductions::play),
        ("roots", roots::play),
        ("sparse", sparse::play),
        ("tables", tables::play),
    ];
    if let Some(code) = stage::play(parts) {
        return code;
    }
    let suite = || Suite::new(c10d::builtin()).backend("cpu:gloo-like");
    let over = |transport| suite().hint("gloo-like.transport", transport);
    let tiered: Vec<_> = c10d::builtin().iter().copied().chain([&stage::PAIR]).collect();
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
