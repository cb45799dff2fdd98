//! The `c10d` program.

mod info;
mod perf;
#[cfg(feature = "plugins")]
mod plugins;
mod run;
mod say;
mod store;

use std::fmt;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

/// Collective communication for Rust: launch ranks, time collectives, show what is registered, test plugins,
/// serve a store.
#[derive(Parser)]
#[command(name = "c10d", version, arg_required_else_help = true)]
enum Command {
    Run(run::Args),
    Perf(perf::Args),
    Info(info::Args),
    Store(store::Args),
    #[cfg(feature = "plugins")]
    #[command(subcommand)]
    Plugins(plugins::Verb),
    /// Run as one rank of `perf`; takes the same arguments.
    #[command(name = perf::RANK_VERB, hide = true)]
    PerfRank(perf::Args),
    /// Load one file for `plugins check`.
    #[cfg(feature = "plugins")]
    #[command(name = plugins::LOAD_VERB, hide = true)]
    PluginsLoad(plugins::File),
    /// Run the suite on one file for `plugins test`, or one rank of the suite.
    #[cfg(feature = "plugins")]
    #[command(name = plugins::SUITE_VERB, hide = true)]
    PluginsSuite(plugins::File),
}

/// The result of a command: an exit code, or an error to print.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// The error for arguments that contradict each other, or that are not possible in this process.
#[derive(Debug)]
struct Bad(String);

impl Bad {
    fn argument(what: impl Into<String>) -> Box<dyn std::error::Error> {
        Box::new(Bad(what.into()))
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Bad {}

/// The exit code for bad arguments, the same as clap's.
const BAD_ARGUMENT: u8 = 2;
/// The exit code if nobody reads the output any more: the code that shells report for a program that SIGPIPE ended.
const READER_GONE: u8 = 128 + 13;

fn main() -> ExitCode {
    log();
    let command = Command::parse();
    let (verb, outcome) = match &command {
        Command::Run(args) => ("run", run::run(args)),
        Command::Perf(args) => ("perf", perf::perf(args)),
        Command::Info(args) => ("info", info::info(args)),
        Command::Store(args) => ("store", store::store(args)),
        #[cfg(feature = "plugins")]
        Command::Plugins(verb) => ("plugins", plugins::plugins(verb)),
        #[cfg(feature = "plugins")]
        Command::PluginsLoad(file) => ("plugins", plugins::load(file)),
        #[cfg(feature = "plugins")]
        Command::PluginsSuite(file) => ("plugins", plugins::suite(file)),
        Command::PerfRank(args) => ("perf", perf::perf_rank(args)),
    };
    outcome.unwrap_or_else(|e| {
        // If nobody reads the output, no error is printed.
        if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::from(READER_GONE);
        }
        let (mut text, mut cause) = (e.to_string(), e.source());
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        say::say(format_args!("c10d {verb}: {}", say::plain(&text)));
        if e.is::<Bad>() { ExitCode::from(BAD_ARGUMENT) } else { ExitCode::FAILURE }
    })
}

/// Prints the log messages of the libraries if `C10D_LOG` is set.
fn log() {
    let level = std::env::var("C10D_LOG").ok().and_then(|l| l.trim().parse().ok()).unwrap_or(LevelFilter::OFF);
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).init();
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
