//! `c10d perf`: times every op over real ranks, and checks every result.

mod args;
mod case;
mod check;
mod layout;
mod measure;
mod memory;
mod ops;
mod rank;
mod report;
mod sample;
mod sparse;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;
use std::sync::Mutex;

use c10d::launch::{Launch, Output};

pub(crate) use args::Args;
use args::Mode;
use report::{Report, Row};

use crate::say::say;
use crate::{Outcome, exit_code};

/// The command by which `perf` starts itself as a rank.
pub(crate) const RANK_VERB: &str = "perf-rank";

pub(crate) fn perf(args: &Args) -> Outcome {
    let points = args.ops()?.into_iter().map(|op| args.points(op)).sum();
    let mut report = Report::new(args, points)?;
    let ran = match args.mode {
        Mode::Processes => processes(args, &mut report),
        Mode::Threads => threads(args, &mut report).map(|()| ExitCode::SUCCESS),
    };
    // What was measured before a failure is shown, too.
    let errors = report.end()?;
    let code = ran?;
    if errors > 0 {
        return Err(format!("{errors} wrong elements").into());
    }
    Ok(code)
}

/// One rank of [`processes`]: rank 0 writes its rows to standard output, as JSON, one per line.
pub(crate) fn perf_rank(args: &Args) -> Outcome {
    if args.pin {
        let rank = std::env::var("RANK").ok().and_then(|r| r.parse().ok()).unwrap_or(0);
        // First of all, so that every thread of this rank inherits it.
        rank::pin(rank)?;
    }
    let pg = rank::builder(args).init("env://").build()?;
    let mut out = std::io::stdout().lock();
    rank::run(&pg, args, |row| {
        // Whoever reads it is gone only when this process is about to be.
        let _ = serde_json::to_string(&row).map(|line| writeln!(out, "{line}").and_then(|()| out.flush()));
    })?;
    pg.shutdown()?;
    Ok(ExitCode::SUCCESS)
}

fn processes(args: &Args, report: &mut Report<'_>) -> Outcome {
    let rest = std::env::args_os().skip(2);
    let words = [RANK_VERB.into()].into_iter().chain(rest);
    let mut job = Launch::new(std::env::current_exe()?, words).ranks(args.ranks).output(Output::Piped).spawn()?;
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

fn threads(args: &Args, report: &mut Report<'_>) -> Result<(), Box<dyn Error>> {
    let report = Mutex::new((report, Ok(())));
    rank::builder(args).run_ranks(args.ranks, |pg| {
        if args.pin {
            rank::pin(pg.rank())?;
        }
        rank::run(&pg, args, |row| {
            if let Ok(mut guard) = report.lock() {
                let (report, printed) = &mut *guard;
                *printed = std::mem::replace(printed, Ok(())).and_then(|()| report.add(row));
            }
        })?;
        pg.shutdown()
    })?;
    let (_, printed) = report.into_inner().map_err(|_| "a rank panicked")?;
    Ok(printed?)
}
