//! The conformance suite with real MPI libraries. The ranks are processes that run this program. `C10D_TEST_MPI` names
//! a folder with the Python environments `mpich` and `intel`, in which the wheels `mpich` and `impi-rt` are installed.

mod groups;
mod room;
mod starts;
mod unaware;
mod wheels;

use std::process::ExitCode;
use std::sync::Arc;

use c10d_conformance::{Program, Ranks, Suite};
use c10d_core::DispatchKey;
use c10d_core::backend::{Provider, Registration};
use c10d_core::tiered::{HOST_HINT, LEAST_HINT, Tiered};
use libtest_mimic::Trial;

const PAIR: &str = "gloo-like+mpi";
/// Shared memory inside a host, MPI between hosts.
static TIERED: Provider = Provider {
    source: "the test",
    backends: &[Registration {
        name: PAIR,
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &|init| Ok(Arc::new(Tiered::connect(PAIR, init)?)),
    }],
    hints: &[HOST_HINT, LEAST_HINT],
    ..Provider::EMPTY
};

fn main() -> ExitCode {
    groups::serve_part();
    room::serve();
    starts::serve_rank();
    let mut program = Program::default();
    for library in &wheels::LIBRARIES {
        let path = match library.path() {
            Ok(path) => path,
            Err(why) => {
                let skip = move || {
                    println!("skipped: {why}");
                    Ok(())
                };
                program = program.trials([Trial::test(format!("{}/skipped", library.name), skip)]);
                continue;
            }
        };
        let worlds: &[u32] = if library.variables.is_empty() { &[1, 2, 3, 4] } else { &[2, 3] };
        let suite = Suite::new(&[&c10d_mpi::PROVIDER, &c10d_gloo_like::PROVIDER])
            .backend("cpu:mpi")
            .worlds(worlds)
            .environment("C10D_MPI_LIB", &path);
        let suite = library.variables.iter().fold(suite, |s, (name, value)| s.environment(name, value));
        if library.name == "mpich" {
            let pair = Suite::new(&[&c10d_mpi::PROVIDER, &c10d_gloo_like::PROVIDER, &TIERED])
                .backend(&format!("cpu:{PAIR}"))
                .worlds(&[3])
                .hint(HOST_HINT, "2")
                .hint(LEAST_HINT, "1")
                .environment("C10D_MPI_LIB", &path);
            program = program.suite("tiered_mpich", pair, Ranks::Processes);
        }
        program = program.suite(library.name, suite, Ranks::Processes).trials(groups::trials(library, &path));
        program = program.trials([room::trial(library, &path)]);
        if library.variables.is_empty() {
            program = program.trials(starts::trials(library, &path));
        }
    }
    program.main()
}
