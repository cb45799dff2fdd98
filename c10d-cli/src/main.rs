//! The `c10d` program.

mod info;
mod perf;
mod run;
mod store;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

/// Collective communication for Rust: launch ranks, time collectives, show what is registered, serve a store.
#[derive(Parser)]
#[command(name = "c10d", version, arg_required_else_help = true)]
enum Command {
    Run(run::Args),
    Perf(perf::Args),
    Info(info::Args),
    Store(store::Args),
    /// One rank of `perf`; takes the same arguments.
    #[command(name = perf::RANK_VERB, hide = true)]
    PerfRank(perf::Args),
}

/// What a command comes to: an exit code, or an error for people.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    log();
    let command = Command::parse();
    let (verb, outcome) = match &command {
        Command::Run(args) => ("run", run::run(args)),
        Command::Perf(args) => ("perf", perf::perf(args)),
        Command::Info(args) => ("info", info::info(args)),
        Command::Store(args) => ("store", store::store(args)),
        Command::PerfRank(args) => ("perf", perf::perf_rank(args)),
    };
    outcome.unwrap_or_else(|e| {
        eprintln!("c10d {verb}: {e}");
        ExitCode::FAILURE
    })
}

/// `C10D_LOG=info` and the like shows what the libraries have to tell.
fn log() {
    let level = std::env::var("C10D_LOG").ok().and_then(|l| l.parse().ok()).unwrap_or(LevelFilter::OFF);
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).init();
}

/// An exit code as the system has them.
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
