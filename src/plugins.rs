//! Plugins: vendors' libraries that are found and loaded at run time; see [`c10d_privateuse`].

pub use c10d_privateuse::{Decision, LoadReport, Refusal, Rule, Search, Verdict};

use c10d_core::Result;
use c10d_core::backend::Registry;

use crate::builtin;

/// A search in which the names of what is linked into this program are taken.
pub fn search() -> Result<Search> {
    Ok(Search::beside(&Registry::collect(builtin())?))
}
