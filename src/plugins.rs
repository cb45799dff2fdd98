//! Plugins: shared libraries of vendors that are found and loaded at run time; see [`c10d_privateuse`].

pub use c10d_privateuse::{Decision, LoadReport, Refusal, Rule, Search, Verdict};

use c10d_core::Result;
use c10d_core::backend::Registry;

use crate::builtin;

/// Starts a search for plugins. The search refuses a plugin that has the name of a linked backend.
pub fn search() -> Result<Search> {
    Ok(Search::beside(&Registry::collect(builtin())?))
}
