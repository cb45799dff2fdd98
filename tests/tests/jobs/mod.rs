//! Shared code of tests with real processes. The test program starts itself again as ranks. The variable `PART` says
//! what a rank runs, as `module/part`: the rank calls the function `run_part` of `module` with the name `part`.
#![allow(dead_code)]

pub(crate) mod acts;
pub(crate) mod trials;

use std::panic::Location;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use c10d::backend::tiered::{self, Tiered};
use c10d::backend::{Provider, Registration};
use c10d::launch::{JobReport, Launch, Output};
use c10d::{DispatchKey, Error, ErrorKind, ProcessGroup, Result};

/// The variable with the path of a plugin whose collectives serve the CPU, in place of gloo-like.
pub(crate) const PLUGIN: &str = "C10D_TEST_PLUGIN";
/// The variable with a backend map in place of the usual one.
pub(crate) const BACKEND: &str = "C10D_TEST_BACKEND";
/// Two tiers: gloo-like inside simulated hosts and gloo-like between them.
pub(crate) static PAIR: Provider = {
    const NAME: &str = "gloo-like+gloo-like";
    Provider {
        source: "the test",
        backends: &[Registration {
            name: NAME,
            keys: &[DispatchKey::Cpu],
            priority: 1,
            probe: &|| Ok(()),
            create: &|init| Ok(Arc::new(Tiered::connect(NAME, init)?)),
        }],
        hints: &[tiered::HOST_HINT, tiered::LEAST_HINT],
        ..Provider::EMPTY
    }
};

pub(crate) const PART: &str = "C10D_TEST_PART";
/// The prefix of the lines that a rank prints for the report.
const MARK: &str = "reported: ";

/// The function that runs a module's parts.
pub(crate) type RunPart = fn(&str) -> Result;

/// Returns the name of the module of this source file.
fn module(place: &Location<'_>) -> String {
    let file = Path::new(place.file());
    let named = if file.ends_with("mod.rs") { file.parent() } else { Some(file) };
    named.and_then(Path::file_stem).expect("a module has a name").to_string_lossy().into_owned()
}

/// If this process was started to run a part, runs it. `modules` has the functions that run the parts of each module.
pub(crate) fn run_part(modules: &[(&str, RunPart)]) -> Option<ExitCode> {
    let part = std::env::var(PART).ok()?;
    let (module, part) = part.split_once('/').expect("a part is of a module");
    let (_, run_part) = modules.iter().find(|(name, _)| *name == module).expect("a module of this program");
    Some(match run_part(part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report_error("part", &e);
            ExitCode::FAILURE
        }
    })
}

/// Launches this program as `ranks` ranks that run `part` of the calling module.
#[track_caller]
pub(crate) fn launch(part: &str, ranks: u32, transport: &str) -> Launch {
    launch_of(&module(Location::caller()), part, ranks, transport)
}

/// Does the same as [`launch`], with a part of `module`.
pub(crate) fn launch_of(module: &str, part: &str, ranks: u32, transport: &str) -> Launch {
    let program = std::env::current_exe().expect("a running program has a path");
    Launch::new(program, std::iter::empty::<&str>())
        .ranks(ranks)
        .env(PART, format!("{module}/{part}"))
        .env("C10D_TRANSPORT", transport)
        .env("C10D_TEST_TRANSPORT", transport)
        .output(Output::Captured)
        .keep_going()
        .grace(Duration::from_secs(1))
        .timeout(Duration::from_secs(60))
}

/// Joins the group of all launched ranks.
pub(crate) fn join(timeout: Duration) -> Result<ProcessGroup> {
    build(c10d::builder().init("env://").timeout(timeout))
}

/// Builds the group, over the plugin or the backend with which the ranks were launched.
pub(crate) fn build(builder: c10d::Builder) -> Result<ProcessGroup> {
    match std::env::var_os(PLUGIN) {
        Some(file) => build_over(builder, Path::new(&file)),
        None => match std::env::var(BACKEND) {
            // With two backends, hosts are simulated, and even small calls use both tiers.
            Ok(map) if map.contains('+') => {
                let builder = builder.providers(&[&PAIR]).backend(&map);
                builder.hint("tiered.ranks-per-host", "2").hint("tiered.least", "1").build()
            }
            Ok(map) => builder.backend(&map).build(),
            Err(_) => builder.build(),
        },
    }
}

/// Builds the group over the plugin in this file.
pub(crate) fn build_over(builder: c10d::Builder, file: &Path) -> Result<ProcessGroup> {
    let loaded = c10d_privateuse::Search::new().file(file).load();
    let name = loaded.decisions.first().and_then(|d| d.name.clone()).unwrap_or_default();
    builder.providers(&loaded.providers).backend(&format!("cpu:{name}")).build()
}

/// Prints one line for the report.
pub(crate) fn report_line(line: impl AsRef<str>) {
    println!("{MARK}{}", line.as_ref().replace('\n', "; "));
}

/// Prints an error in one line.
pub(crate) fn report_error(about: &str, error: &Error) {
    let report = error.report();
    let field = match &report.kind {
        ErrorKind::Mismatch { field, .. } => field,
        _ => "-",
    };
    let guilty: Vec<String> = report.guilty.iter().map(u32::to_string).collect();
    report_line(format!("{about}|{}|{}|{field}|{error}", report.kind.name(), guilty.join(",")));
}

/// The failure that a rank reported.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) about: String,
    pub(crate) kind: String,
    pub(crate) guilty: Vec<u32>,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// The lines that a rank reported.
pub(crate) fn lines(report: &JobReport, rank: u32) -> Vec<String> {
    let text = String::from_utf8_lossy(&report.output[rank as usize].stdout).into_owned();
    text.lines().filter_map(|line| line.strip_prefix(MARK)).map(str::to_owned).collect()
}

/// The failures that a rank reported.
pub(crate) fn failures(report: &JobReport, rank: u32) -> Vec<Failure> {
    let parse = |line: String| {
        let mut parts = line.splitn(5, '|').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (about, kind, guilty, field, message) = (next(), next(), next(), next(), next());
        let guilty = guilty.split(',').filter_map(|g| g.parse().ok()).collect();
        Failure { about, kind, guilty, field, message }
    };
    lines(report, rank).into_iter().map(parse).collect()
}

/// Describes for error messages how all ranks ended, with their output.
pub(crate) fn shown(report: &JobReport) -> String {
    let mut text = String::new();
    for (exit, output) in report.exits.iter().zip(&report.output) {
        text += &format!("rank {} {exit}\n", exit.rank);
        text += &String::from_utf8_lossy(&output.stdout);
        text += &String::from_utf8_lossy(&output.stderr);
    }
    text
}

/// Runs the tests of the calling module, except `this_test`, again over TCP.
#[track_caller]
pub(crate) fn again_over_tcp(this_test: &str) {
    if std::env::var_os("C10D_TRANSPORT").is_some() {
        return;
    }
    let module = module(Location::caller());
    let program = std::env::current_exe().expect("a running program has a path");
    let output = std::process::Command::new(program)
        .args([&format!("{module}::"), "--skip", this_test])
        .env("C10D_TRANSPORT", "tcp")
        .output()
        .expect("this program can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "over TCP:\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
