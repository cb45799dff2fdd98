//! Shared code of the examples: how a rank joins its group.

use std::error::Error;
use std::time::Duration;

use c10d::ProcessGroup;
use c10d::launch::Launch;

/// The variables by which launchers (`c10d run`, torchrun, mpirun, srun) tell a process its rank.
const RANK_VARIABLES: [&str; 5] = ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"];

/// Joins this rank's group. If no launcher started the program, this function starts the program again as four ranks,
/// and ends this process when the ranks have ended.
pub(crate) fn group() -> Result<ProcessGroup, Box<dyn Error>> {
    if RANK_VARIABLES.iter().all(|name| std::env::var_os(name).is_none()) {
        let report = Launch::new(std::env::current_exe()?, std::env::args_os().skip(1)).ranks(4).run()?;
        if let Some(failure) = &report.failure {
            eprintln!("{failure}");
        }
        std::process::exit(report.exit_code());
    }
    Ok(c10d::builder().init("env://").timeout(Duration::from_secs(30)).build()?)
}
