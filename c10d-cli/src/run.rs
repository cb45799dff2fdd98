//! `c10d run`: launches the ranks of a program.

use std::ffi::OsString;

use c10d::launch::Launch;

use crate::{Outcome, exit_code};

/// Run a program as N ranks, with torchrun's variables and a store.
///
/// Output is prefixed by rank. The first rank that fails ends the others, and its exit code is this program's.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ranks on this host.
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ranks: u32,
    /// Hosts; `c10d run` is started on each of them.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nnodes: u32,
    /// Which host this is, 0 to M - 1.
    #[arg(long, value_name = "R", default_value_t = 0)]
    node_rank: u32,
    /// Where host 0 serves the store; needed with several hosts.
    #[arg(long, value_name = "HOST:PORT")]
    rdzv: Option<String>,
    /// The program and its arguments.
    #[arg(value_name = "PROG", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let (program, rest) = args.command.split_first().ok_or("no program was given")?;
    let mut launch = Launch::new(program, rest).ranks(args.ranks).nnodes(args.nnodes).node_rank(args.node_rank);
    if let Some(place) = &args.rdzv {
        launch = launch.rdzv(place);
    }
    let report = launch.run()?;
    if let Some(failure) = &report.failure {
        eprintln!("c10d run: {failure}");
    } else if let Some(elsewhere) = &report.elsewhere {
        eprintln!("c10d run: {elsewhere}");
    }
    Ok(exit_code(report.exit_code()))
}
