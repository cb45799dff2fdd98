#![doc = include_str!("../README.md")]

pub mod abi;
mod export;
mod host;
mod load;
mod provider;
mod refusal;
mod table;

pub use load::{Decision, LoadReport, Search, Verdict};
pub use provider::PROVIDER;
pub use refusal::{Refusal, Rule};

/// Items that the exported macros use.
#[doc(hidden)]
pub mod __private {
    pub use c10d_core::backend::{Capabilities, Provider};

    pub use crate::export::{Exported, Statics, entry};
}
