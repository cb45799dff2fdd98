//! The decision about each file, and its reason.

use std::fmt;
use std::path::PathBuf;

use c10d_core::backend::Provider;

use crate::refusal::{Refusal, Rule};

/// The decision about a file, a directory or a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin was loaded, and its backend or device can be used.
    Loaded,
    /// The file passed all checks that are possible without loading it.
    Passed,
    /// The file is valid, but already loaded or not wanted; or a variable or directory was ignored; or a listed name
    /// matches no plugin.
    Skipped,
    /// The file or directory broke a rule.
    Refused,
}

impl Verdict {
    /// The verdict's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Loaded => "loaded",
            Verdict::Passed => "passed",
            Verdict::Skipped => "skipped",
            Verdict::Refused => "refused",
        }
    }
}

/// The decision about one file, directory or variable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Decision {
    /// The file or directory. For a variable: its name.
    pub path: PathBuf,
    /// The verdict.
    pub verdict: Verdict,
    /// The rule by which the file, directory or variable was refused or skipped.
    pub rule: Option<Rule>,
    /// The plugin's name, if its note could be read.
    pub name: Option<String>,
    /// The ABI version that the plugin was built for, if its note could be read.
    pub abi: Option<(u16, u16)>,
    /// The details: for a loaded plugin its version and parts, otherwise the finding of the check.
    pub detail: String,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.verdict.name())?;
        if let Some(rule) = self.rule {
            write!(f, " ({rule})")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl Decision {
    pub(super) fn new(path: impl Into<PathBuf>, verdict: Verdict) -> Decision {
        Decision { path: path.into(), verdict, rule: None, name: None, abi: None, detail: String::new() }
    }

    pub(super) fn refused(path: impl Into<PathBuf>, refusal: Refusal) -> Decision {
        // These rules do not mean that a file is at fault.
        let skipped = matches!(refusal.rule, Rule::Duplicate | Rule::Filter | Rule::Privileged);
        let verdict = if skipped { Verdict::Skipped } else { Verdict::Refused };
        Decision { rule: Some(refusal.rule), detail: refusal.detail, ..Decision::new(path, verdict) }
    }

    pub(super) fn log(&self) {
        match self.verdict {
            Verdict::Refused => tracing::warn!(target: "c10d::plugin", "{self}"),
            // A decision without a plugin's name is about a variable or directory that was ignored, or about a listed
            // name that matches no plugin.
            Verdict::Skipped if self.name.is_none() => tracing::warn!(target: "c10d::plugin", "{self}"),
            _ => tracing::info!(target: "c10d::plugin", "{self}"),
        }
    }
}

/// The result of a search.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct LoadReport {
    /// All decisions, in the order in which they were made.
    pub decisions: Vec<Decision>,
    /// The providers of the loaded plugins, for the group builder.
    pub providers: Vec<&'static Provider>,
}

impl LoadReport {
    /// Whether any file or directory was refused.
    pub fn has_refusals(&self) -> bool {
        self.decisions.iter().any(|d| d.verdict == Verdict::Refused)
    }
}
