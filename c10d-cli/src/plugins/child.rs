//! Runs this program again as a child process, so that a plugin that crashes or hangs does not harm this process. When
//! this process ends or is killed, the child and all its descendants end.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use c10d::ErrorKind;
use c10d::launch::{JobReport, Launch, Output};

use super::{LOAD_VERB, Row};
use crate::say::say;

/// The prefix of the lines that are meant for the parent. A plugin's constructor may print other lines.
pub(super) const MARK: &str = "c10d-plugin ";

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn child(words: impl IntoIterator<Item = OsString>) -> std::io::Result<Launch> {
    Ok(Launch::new(std::env::current_exe()?, words).ranks(1))
}

/// Runs this program with these arguments. Returns whether it succeeded.
pub(super) fn succeeds(words: impl IntoIterator<Item = OsString>) -> Fallible<bool> {
    // A signal ends this process, and thereby the child.
    let report = child(words)?.output(Output::Inherit).spawn()?.join()?;
    if let Some(failure) = report.failure.as_ref().filter(|failure| failure.exit.signal.is_some()) {
        say(format_args!("c10d plugins: the suite {}", failure.exit));
    }
    Ok(report.exit_code() == 0)
}

/// Loads the file in a child within this time. Returns the child's decision, or why the child made none.
pub(super) fn load(path: &Path, limit: Duration) -> Fallible<Result<Row, String>> {
    let job = child([LOAD_VERB.into(), path.into()])?.output(Output::Captured).spawn()?;
    match job.wait(Instant::now() + limit) {
        Ok(report) => Ok(decision(&report)),
        Err(e) if *e.kind() == ErrorKind::Timeout => {
            Ok(Err(format!("loading it took longer than {} s", limit.as_secs())))
        }
        Err(e) => Err(e.into()),
    }
}

fn decision(report: &JobReport) -> Result<Row, String> {
    let said = report.output.first().cloned().unwrap_or_default();
    let _ = std::io::stderr().write_all(&said.stderr);
    let text = String::from_utf8_lossy(&said.stdout);
    let row = text.lines().rev().find_map(|line| line.strip_prefix(MARK));
    let row = row.and_then(|json| serde_json::from_str(json).ok());
    let how = report.exits.first().map_or_else(String::new, ToString::to_string);
    row.ok_or_else(|| format!("the process that loaded the plugin ended early: it {how}"))
}
