//! Decisions about plugins as rows of a table or of JSON.

use std::io::{self, Write};
use std::path::PathBuf;

use c10d::plugins::{Decision, Rule, Verdict};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use crate::say::plain;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) path: PathBuf,
    pub(crate) verdict: String,
    pub(crate) rule: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) abi: Option<String>,
    pub(crate) detail: String,
}

impl From<&Decision> for Row {
    fn from(d: &Decision) -> Row {
        Row {
            path: d.path.clone(),
            verdict: d.verdict.name().to_owned(),
            rule: d.rule.map(|rule| rule.name().to_owned()),
            name: d.name.clone(),
            abi: d.abi.map(|(major, minor)| format!("{major}.{minor}")),
            detail: d.detail.clone(),
        }
    }
}

impl Row {
    pub(super) fn is(&self, verdict: Verdict) -> bool {
        self.verdict == verdict.name()
    }

    /// Returns a row for the same file with the verdict `refused`.
    pub(super) fn refused(&self, rule: Rule, detail: String) -> Row {
        Row { verdict: Verdict::Refused.name().into(), rule: Some(rule.name().into()), detail, ..self.clone() }
    }
}

pub(crate) fn print_rows(rows: &[Row], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{}", serde_json::to_string_pretty(rows)?);
    }
    if rows.is_empty() {
        return writeln!(out, "no plugins");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(vec!["file", "verdict", "rule", "name", "abi", "detail"]);
    for row in rows {
        // A file's path, and the texts that a plugin contains, may have control characters. `plain` replaces them.
        let text = |t: &Option<String>| plain(t.as_deref().unwrap_or_default());
        let (rule, name, abi) = (text(&row.rule), text(&row.name), text(&row.abi));
        table.add_row(vec![
            plain(&row.path.display().to_string()),
            row.verdict.clone(),
            rule,
            name,
            abi,
            plain(&row.detail),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())
}
