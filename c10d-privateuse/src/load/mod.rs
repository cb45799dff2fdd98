//! Makes a provider from the path of a plugin. The file is checked before the system's loader loads it.

mod elf;
mod filter;
mod loaded;
mod open;
mod report;
mod search;
mod trust;

pub use report::{Decision, LoadReport, Verdict};
pub use search::Search;
