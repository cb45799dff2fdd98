//! `c10d run`: launches the ranks of a program.

use std::ffi::OsString;
use std::time::Duration;

use c10d::ErrorKind;
use c10d::launch::{self, JobReport, Launch};
use clap::ValueEnum;

use crate::say::{plain, say};
use crate::{Bad, Outcome, exit_code};

/// The exit code if the time limit has passed.
const TIME_IS_UP: i32 = 124;

/// Run a program as N ranks, with torchrun's variables and a store.
///
/// Every output line is prefixed by its rank. When a rank fails, `c10d run` ends the others. The exit code is then that
/// of the rank that failed first, or 128 + signal if a signal killed it. If SIGINT or SIGTERM arrived and not all ranks
/// succeeded, the exit code is 130 or 143. The exit code is 124 if the time limit has passed, and 141 if nobody reads
/// the output any more.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The number of ranks on this host.
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(launch::MOST_RANKS)))]
    ranks: u32,
    /// The number of hosts; start `c10d run` on each of them.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(launch::MOST_HOSTS)))]
    nnodes: u32,
    /// The number of this host, 0 to M - 1.
    #[arg(long, value_name = "R", default_value_t = 0)]
    node_rank: u32,
    /// The address at which host 0 serves the store; required with several hosts.
    #[arg(long, value_name = "HOST:PORT")]
    rdzv: Option<String>,
    /// How long the launchers of several hosts wait for each other.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds, allow_negative_numbers = true)]
    join_timeout: Duration,
    /// Let the other ranks continue when a rank fails.
    #[arg(long)]
    keep_going: bool,
    /// Which ranks must succeed for the job to succeed. Values other than `all` imply --keep-going.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Success::All)]
    success: Success,
    /// The time between the signal that ends the ranks and SIGKILL.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds, allow_negative_numbers = true)]
    grace: Duration,
    /// The time limit of the whole job, after which the ranks are ended.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    /// An environment variable for every rank; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(OsString, OsString)>,
    /// The ranks that get standard input.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Stdin::Rank0)]
    stdin: Stdin,
    /// The program and its arguments.
    #[arg(value_name = "PROG", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

#[derive(ValueEnum, Clone, Copy)]
enum Success {
    /// All ranks.
    All,
    /// All ranks that were not killed by a signal, and at least one.
    Survivors,
    /// At least one rank.
    Any,
}

#[derive(ValueEnum, Clone, Copy)]
enum Stdin {
    /// Rank 0.
    Rank0,
    /// All ranks of this host. Each gets all input, and the slowest reader sets the speed.
    All,
    /// No rank.
    None,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let (program, rest) = args.command.split_first().ok_or("no program was given")?;
    if args.node_rank >= args.nnodes {
        return Err(Bad::argument(format!(
            "--node-rank {} with --nnodes {}: the hosts are numbered from 0 to {}",
            args.node_rank,
            args.nnodes,
            args.nnodes - 1
        )));
    }
    if args.nnodes > 1 && args.rdzv.is_none() {
        return Err(Bad::argument("several hosts need --rdzv HOST:PORT, where host 0 serves the store"));
    }
    let mut launch = Launch::new(program, rest)
        .ranks(args.ranks)
        .nnodes(args.nnodes)
        .node_rank(args.node_rank)
        .join_timeout(args.join_timeout)
        .grace(args.grace)
        .success(match args.success {
            Success::All => launch::Success::All,
            Success::Survivors => launch::Success::Survivors,
            Success::Any => launch::Success::Any,
        })
        .stdin(match args.stdin {
            Stdin::Rank0 => launch::Stdin::Rank0,
            Stdin::All => launch::Stdin::All,
            Stdin::None => launch::Stdin::None,
        });
    launch = args.env.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    if args.keep_going {
        launch = launch.keep_going();
    }
    if let Some(place) = &args.rdzv {
        launch = launch.rdzv(place);
    }
    if let Some(limit) = args.timeout {
        launch = launch.timeout(limit);
    }
    match launch.run() {
        Ok(report) => {
            tell(&report);
            Ok(exit_code(report.exit_code()))
        }
        Err(e) if *e.kind() == ErrorKind::Timeout => {
            say(format_args!("c10d run: {e:?}"));
            Ok(exit_code(TIME_IS_UP))
        }
        Err(e) if *e.kind() == ErrorKind::InvalidArgument => Err(Bad::argument(e.to_string())),
        Err(e) => Err(e.into()),
    }
}

/// Prints the reason for the end of the job.
fn tell(report: &JobReport) {
    if let Some(failure) = &report.failure {
        let all = report.exit_code() == 0;
        say(format_args!(
            "c10d run: {failure}{}",
            if all { "\nc10d run: the job succeeded, since the ranks that --success requires succeeded" } else { "" }
        ));
    } else if report.reader_gone {
        say("c10d run: nobody reads the output any more, so the ranks were ended");
    } else if let Some(elsewhere) = &report.elsewhere {
        let ended = report.exits.iter().any(|exit| !exit.success());
        let then = if ended { "; so the ranks of this host were ended" } else { "" };
        say(format_args!("c10d run: {}{then}", plain(elsewhere)));
    }
    if !report.overdue.is_empty() {
        say(format_args!("c10d run: ranks {:?} did not end within the grace time and were killed", report.overdue));
    }
}

/// The largest number of seconds of any option: a year.
const YEAR: f64 = 365.0 * 24.0 * 3600.0;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.0..=YEAR).contains(s));
    let wrong = || format!("{text:?} is not a number of seconds from 0 to {YEAR}");
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).ok_or_else(wrong)
}

fn variable(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}
