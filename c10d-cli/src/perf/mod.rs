//! `c10d perf`: times every op over real ranks, and checks every result.

mod args;
mod case;
mod check;
mod compute;
mod layout;
mod measure;
mod memory;
mod ops;
mod plot;
mod point;
mod rank;
mod report;
mod sample;
#[cfg(feature = "gloo-like")]
mod simulate;
mod sparse;
#[cfg(feature = "gloo-like")]
mod tune;

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;
use std::sync::Mutex;

use c10d::launch::{Launch, Output};

pub(crate) use args::Args;
use args::Mode;
use rank::Contender;
use report::{PerfReport, Row};

use crate::say::say;
use crate::{Bad, Outcome, exit_code};

/// The command by which `perf` starts itself as a rank.
pub(crate) const RANK_VERB: &str = "perf-rank";

/// The variables in which launchers (`c10d run`, torchrun, mpirun, srun) give a process its rank.
const RANK_VARIABLES: [&str; 5] = ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"];
/// The variables in which launchers give a process its number among the ranks of its host. If a launcher sets none of
/// the first four, `RANK` is used.
const LOCAL_RANK_VARIABLES: [&str; 5] =
    ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", "RANK"];
/// The variables in which launchers give a process the number of ranks on its host.
const LOCAL_SIZE_VARIABLES: [&str; 4] =
    ["LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"];

/// Returns the number in the first of these variables that contains a number.
fn number(names: &[&str]) -> Option<u32> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Returns whether the variable is set. As in `env://`, a blank value counts as not set.
fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.to_string_lossy().trim().is_empty())
}

pub(crate) fn perf(args: &Args) -> Outcome {
    #[cfg(feature = "gloo-like")]
    if args.simulate.is_some() {
        return simulate::simulate(args).map(|()| ExitCode::SUCCESS);
    }
    if !args.alone && RANK_VARIABLES.iter().any(|name| is_set(name)) {
        return joined(args);
    }
    #[cfg(feature = "gloo-like")]
    if args.tune.is_some() && args.mode == Mode::Threads {
        return Err(Bad::argument("--tune works only with processes as ranks: leave out --mode threads"));
    }
    args.check_sizes(args.ranks()).map_err(Bad::argument)?;
    let mut report = PerfReport::new(args, points(args)?)?;
    let ran = match args.mode {
        Mode::Processes => processes(args, &mut report),
        Mode::Threads => threads(args, &mut report).map(|()| ExitCode::SUCCESS),
    };
    // Results from before a failure are shown.
    let rows = report.end()?;
    let code = ran?;
    if code == ExitCode::SUCCESS {
        conclude(args, &rows)?;
    }
    Ok(code)
}

/// Joins the groups of a run: one group, or with `--tune` one group per algorithm.
fn join(args: &Args) -> Result<Vec<Contender>, Box<dyn Error>> {
    #[cfg(feature = "gloo-like")]
    if args.tune.is_some() {
        return tune::join(args);
    }
    Ok(Contender::alone(rank::builder(args).init("env://").build()?))
}

/// Ends a successful run: checks the results, and writes the requested files.
fn conclude(args: &Args, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let errors = report::wrong_elements(rows);
    if errors > 0 {
        return Err(format!("{errors} wrong elements").into());
    }
    #[cfg(feature = "gloo-like")]
    if let Some(file) = &args.tune {
        tune::write(file, rows)?;
    }
    if let Some(file) = &args.plot {
        plot::write(file, rows)?;
    }
    Ok(())
}

fn points(args: &Args) -> Result<usize, Box<dyn Error>> {
    Ok(args.ops().map_err(Bad::argument)?.into_iter().map(|op| args.points(op)).sum())
}

/// Runs as a rank of a running job; rank 0 prints the results.
fn joined(args: &Args) -> Outcome {
    if args.mode == Mode::Threads {
        let what =
            "--mode threads starts ranks, but this process is a rank of a running job; add --alone to start others";
        return Err(Bad::argument(what));
    }
    pin(args)?;
    let groups = join(args)?;
    let pg = &groups[0].pg;
    let args = &args.joined(pg.size()).map_err(Bad::argument)?;
    args.check_sizes(number(&LOCAL_SIZE_VARIABLES).unwrap_or(pg.size())).map_err(Bad::argument)?;
    let mut report = if pg.rank() == 0 { Some(PerfReport::new(args, points(args)?)?) } else { None };
    let ran = rank::run(&groups, args, |row| report.as_mut().map_or(Ok(()), |report| report.add(row)));
    let rows = report.map_or(Ok(Vec::new()), PerfReport::end)?;
    ran?;
    let first = pg.rank() == 0;
    leave(groups)?;
    if first {
        conclude(args, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Binds this rank to a core, if requested. The binding precedes everything else, so that every thread of the rank
/// inherits it.
fn pin(args: &Args) -> c10d::Result {
    if args.pin { rank::pin(number(&LOCAL_RANK_VARIABLES).unwrap_or(0)) } else { Ok(()) }
}

/// Runs one rank of [`processes`]: rank 0 writes its rows to standard output, as JSON, one per line.
pub(crate) fn perf_rank(args: &Args) -> Outcome {
    pin(args)?;
    let groups = join(args)?;
    let mut out = std::io::stdout().lock();
    rank::run(&groups, args, |row| {
        writeln!(out, "{}", serde_json::to_string(&row)?)?;
        out.flush()
    })?;
    leave(groups)?;
    Ok(ExitCode::SUCCESS)
}

fn leave(groups: Vec<Contender>) -> c10d::Result {
    groups.into_iter().try_for_each(|group| group.pg.shutdown())
}

fn processes(args: &Args, report: &mut PerfReport<'_>) -> Outcome {
    let rest = std::env::args_os().skip(2);
    let words = [RANK_VERB.into()].into_iter().chain(rest);
    let mut job = Launch::new(std::env::current_exe()?, words).ranks(args.ranks()).output(Output::Piped).spawn()?;
    let rows = BufReader::new(job.take_stdout(0)?);
    for line in rows.lines() {
        report.add(serde_json::from_str::<Row>(&line?)?)?;
    }
    let end = job.join()?;
    if let Some(failure) = &end.failure {
        say(format_args!("c10d perf: {failure}"));
    }
    Ok(exit_code(end.exit_code()))
}

fn threads(args: &Args, report: &mut PerfReport<'_>) -> Result<(), Box<dyn Error>> {
    // The second value is the error of a row that could not be printed, if there is one.
    let report = Mutex::new((report, None));
    let ran = rank::builder(args).run_ranks(args.ranks(), |pg| {
        if args.pin {
            rank::pin(pg.rank())?;
        }
        let groups = Contender::alone(pg);
        rank::run(&groups, args, |row| {
            let mut guard = report.lock().map_err(|_| io::Error::other("a rank panicked"))?;
            let (report, unshown) = &mut *guard;
            report.add(row).map_err(|e| io::Error::new(e.kind(), unshown.insert(e).to_string()))
        })?;
        leave(groups)
    });
    match report.into_inner() {
        Ok((_, Some(unshown))) => Err(unshown.into()),
        _ => Ok(ran.map(drop)?),
    }
}
