//! Plugins: vendors' libraries that are found and loaded at run time; see [`c10d_privateuse`].

pub use c10d_privateuse::{Decision, LoadReport, Refusal, Rule, Search, Verdict};

use c10d_core::Result;
use c10d_core::registry::Registry;

use crate::builtin;

/// A search in which the names of what is linked into this program are taken.
pub fn search() -> Result<Search> {
    let registry = Registry::collect(builtin())?;
    let backends = registry.backends().map(|(r, source)| (r.name, source));
    let devices = registry.devices().map(|(d, source)| (d.name, source));
    Ok(backends.chain(devices).fold(Search::new(), |search, (name, source)| search.taken(name, source)))
}
