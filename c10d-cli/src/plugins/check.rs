//! `c10d plugins check`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use c10d::plugins::{Rule, Verdict};

use super::{File, Limit, Row, child, inspect, one, print_rows};
use crate::Outcome;

pub(super) fn check(path: &Path, limit: Limit, json: bool) -> Outcome {
    let rows = checked(path, limit)?;
    print_rows(&rows, json)?;
    let good = !rows.is_empty() && !rows.iter().any(|row| row.is(Verdict::Refused));
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every decision; what passes is loaded in a process of its own.
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

/// The child's part.
pub(crate) fn load(file: &File) -> Outcome {
    let report = one(&file.path)?.load();
    let row = report.decisions.first().map(Row::from).ok_or("nothing was decided")?;
    writeln!(std::io::stdout(), "\n{}{}", child::MARK, serde_json::to_string(&row)?)?;
    Ok(ExitCode::SUCCESS)
}
