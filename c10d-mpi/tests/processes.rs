//! The conformance suite with real MPI libraries. The ranks are processes of this program. `C10D_TEST_MPI` names a
//! folder with the Python environments `mpich` and `intel`, which have the wheels `mpich` and `impi-rt`.

mod groups;
mod starts;
mod wheels;

use std::process::ExitCode;

use c10d_conformance::{Program, Ranks, Suite};
use libtest_mimic::Trial;

fn main() -> ExitCode {
    groups::serve_part();
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
        program = program.suite(library.name, suite, Ranks::Processes).trials(groups::trials(library, &path));
        if library.variables.is_empty() {
            program = program.trials(starts::trials(library, &path));
        }
    }
    program.main()
}
