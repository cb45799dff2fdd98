//! Makes a provider from a path: the checks come first, the system's loader last.

mod elf;
mod filter;
mod loaded;
mod open;
mod report;
mod search;
mod trust;

pub use report::{Decision, LoadReport, Verdict};
pub use search::Search;
