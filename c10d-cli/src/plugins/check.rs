//! `c10d plugins check`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use c10d::ReduceOp;
use c10d::backend::Provider;
use c10d::plugins::{Rule, Verdict};
use c10d::types::DTypeSet;

use super::{File, Limit, Row, child, inspect, one, print_rows};
use crate::Outcome;

pub(super) fn check(path: &Path, limit: Limit, json: bool) -> Outcome {
    let rows = checked(path, limit)?;
    print_rows(&rows, json)?;
    let good = !rows.is_empty() && !rows.iter().any(|row| row.is(Verdict::Refused));
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the decision about each plugin at this path. Each plugin that passes the checks is loaded in a process of
/// its own.
pub(super) fn checked(path: &Path, limit: Limit) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    for row in inspect(path)?.decisions.iter().map(Row::from) {
        if row.is(Verdict::Passed) {
            let loaded = child::load(&row.path, limit.time())?;
            rows.push(loaded.unwrap_or_else(|how| row.refused(Rule::Crash, how)));
        } else {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Whether a device of the plugin reduces by itself. Only the device's runtime can report this, so this opens the
/// runtime.
fn reduces(providers: &[&'static Provider]) -> bool {
    let devices = providers.iter().flat_map(|p| p.devices);
    devices.filter_map(|device| (device.open)().ok()).any(|runtime| {
        let Some(reduction) = runtime.reduction() else { return false };
        let mut operations = (0..ReduceOp::COUNT as u8).filter_map(|code| ReduceOp::from_code(code, 1.0));
        operations.any(|op| reduction.reduces(op) != DTypeSet::NONE)
    })
}

/// Loads one plugin and prints the decision. The child process runs this function.
pub(crate) fn load(file: &File) -> Outcome {
    let report = one(&file.path)?.load();
    let mut row = report.decisions.first().map(Row::from).ok_or("there was no decision about this file")?;
    if reduces(&report.providers) {
        row.detail += "; the device reduces";
    }
    writeln!(std::io::stdout(), "\n{}{}", child::MARK, serde_json::to_string(&row)?)?;
    Ok(ExitCode::SUCCESS)
}
