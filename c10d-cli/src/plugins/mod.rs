//! `c10d plugins`: what a file or directory offers, whether it may be loaded, whether it works.

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
/// The command by which `test` starts itself to run the suite, and the suite to be a rank.
pub(crate) const SUITE_VERB: &str = "plugins-suite";

/// Show, check or test plugins.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// What a file or directory offers, by the checks that need no loading. Without a path: what the variables and the
    /// standard directories offer.
    List {
        /// A plugin, or a directory of plugins.
        path: Option<PathBuf>,
        /// As JSON, a list of decisions.
        #[arg(long)]
        json: bool,
    },
    /// Check a plugin, or those of a directory, and load each in a process of its own. Fails if one is refused.
    Check {
        /// A plugin, or a directory of plugins.
        path: PathBuf,
        #[command(flatten)]
        limit: Limit,
        /// As JSON, a list of decisions.
        #[arg(long)]
        json: bool,
    },
    /// Check, then run the conformance suite on what the plugin offers, every rank a process. Fails if a case does.
    ///
    /// A device first gets its copies tried, since every op rests on them. The first world size with failures is the last
    /// that is tried; of failures with the same reason a few are shown.
    Test {
        /// A plugin, or a directory of plugins.
        path: PathBuf,
        #[command(flatten)]
        limit: Limit,
        #[command(flatten)]
        options: suite::Options,
    },
}

/// How long a plugin may take to be loaded.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Limit {
    /// Seconds that loading one plugin may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    load_timeout: u32,
}

impl Limit {
    fn time(self) -> Duration {
        Duration::from_secs(self.load_timeout.into())
    }
}

/// One plugin's file, for the hidden verbs.
#[derive(clap::Args)]
pub(crate) struct File {
    path: PathBuf,
    #[command(flatten)]
    options: suite::Options,
    /// Which of the plugin's suites.
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

/// The decisions about a file or a directory, without loading.
fn inspect(path: &Path) -> Result<LoadReport, Box<dyn std::error::Error>> {
    let path = whole(path)?;
    let is_directory = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
    // A directory that is called like a plugin is a bad plugin.
    let is_directory = is_directory && path.extension().is_none_or(|e| e != "so");
    let search = search()?;
    Ok(if is_directory { search.directory(path) } else { search.file(path) }.inspect())
}

/// The search for one file.
fn one(path: &Path) -> Result<Search, Box<dyn std::error::Error>> {
    Ok(search()?.file(whole(path)?))
}

/// The path from the root, without `.` and `..`. What it leads through is checked link by link afterwards.
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
