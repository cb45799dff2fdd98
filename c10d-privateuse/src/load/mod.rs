//! From a path to a provider: checks first, the system's loader last.

mod elf;
mod filter;
mod loaded;
mod offer;
mod open;
mod report;
mod rule;
mod search;
mod space;
mod table;
mod trust;

pub(crate) use open::Entry;
pub use report::{Decision, Report, Verdict};
pub use rule::{Refusal, Rule};
pub use search::Search;
pub(crate) use table::{Table, device_key};
