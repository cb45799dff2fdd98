//! From a path to a provider: checks first, the system's loader last.

mod elf;
mod filter;
mod loaded;
mod open;
mod report;
mod search;
mod trust;

pub use report::{Decision, LoadReport, Verdict};
pub use search::Search;
