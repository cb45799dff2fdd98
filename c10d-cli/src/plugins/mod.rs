//! `c10d plugins`: shows what a file or directory offers, checks whether it can be loaded, and tests it.

mod check;
mod child;
mod failures;
mod round_trip;
mod row;
mod suite;

use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use c10d::plugins::{LoadReport, Search, search};

use crate::Outcome;

pub(crate) use check::load;
pub(crate) use row::{Row, print_rows};
pub(crate) use suite::suite;

/// The command by which `check` starts itself to load one file.
pub(crate) const LOAD_VERB: &str = "plugins-load";
/// The command by which `test` starts itself to run the suite, and by which the suite starts its ranks.
pub(crate) const SUITE_VERB: &str = "plugins-suite";

/// Show, check or test plugins.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Show what a file or directory offers, without loading it. Without a path, show what the environment variables
    /// and the standard directories offer.
    List {
        /// A plugin, or a directory of plugins.
        path: Option<PathBuf>,
        /// Print JSON: a list of decisions.
        #[arg(long)]
        json: bool,
    },
    /// Check a plugin, or all plugins of a directory, and load each in a process of its own. Fails if a plugin is
    /// refused.
    Check {
        /// A plugin, or a directory of plugins.
        path: PathBuf,
        #[command(flatten)]
        limit: Limit,
        /// Print JSON: a list of decisions.
        #[arg(long)]
        json: bool,
    },
    /// Check a plugin, then run the conformance suite on what it offers, with a process for every rank. Fails if a case
    /// fails.
    ///
    /// For a device, copies to the device and back are tested first, since every op needs them. The run ends after the
    /// first world size with failures. Of the failures with the same reason, only a few are shown.
    Test {
        /// A plugin, or a directory of plugins.
        path: PathBuf,
        #[command(flatten)]
        limit: Limit,
        #[command(flatten)]
        options: suite::Options,
    },
}

/// The time limit for loading a plugin.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Limit {
    /// The time limit for loading one plugin, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    load_timeout: u32,
}

impl Limit {
    fn time(self) -> Duration {
        Duration::from_secs(self.load_timeout.into())
    }
}

/// One plugin's file, for the hidden commands.
#[derive(clap::Args)]
pub(crate) struct File {
    path: PathBuf,
    #[command(flatten)]
    options: suite::Options,
    /// The index of one of the plugin's suites.
    #[arg(long)]
    part: Option<usize>,
}

pub(crate) fn plugins(verb: &Verb) -> Outcome {
    match verb {
        Verb::List { path, json } => list(path.as_deref(), *json),
        Verb::Check { path, limit, json } => check::check(path, *limit, *json),
        Verb::Test { path, limit, options } => suite::test(path, *limit, options),
    }
}

fn list(path: Option<&Path>, json: bool) -> Outcome {
    let report = match path {
        Some(path) => inspect(path)?,
        None => search()?.environment().standard().inspect(),
    };
    let rows: Vec<Row> = report.decisions.iter().map(Row::from).collect();
    print_rows(&rows, json)?;
    Ok(if report.has_refusals() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns the decisions about a file or a directory, without loading anything.
fn inspect(path: &Path) -> Result<LoadReport, Box<dyn std::error::Error>> {
    let path = whole(path)?;
    let is_directory = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
    // A directory whose name ends in `.so` is not searched: it is reported as a bad plugin.
    let is_directory = is_directory && path.extension().is_none_or(|e| e != "so");
    let search = search()?;
    Ok(if is_directory { search.directory(path) } else { search.file(path) }.inspect())
}

fn one(path: &Path) -> Result<Search, Box<dyn std::error::Error>> {
    Ok(search()?.file(whole(path)?))
}

/// Returns the absolute path, without `.` and `..`.
fn whole(path: &Path) -> std::io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    Ok(out)
}
