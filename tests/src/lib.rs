#![doc = include_str!("../README.md")]

mod case;
mod cases;
mod check;
mod data;
mod device;
mod executor;
mod fold;
mod harness;
mod issue;
mod processes;
mod raw;
mod reference;
mod run;
mod suite;
mod tensor;

pub use cases::Selection;
pub use executor::block_on;
pub use fold::reduced;
pub use harness::Program;
pub use suite::{Outcome, Ranks, Suite};

/// The variables that the suite and the tests of this project read.
static SETTINGS: c10d_core::backend::Provider = c10d_core::backend::Provider {
    source: env!("CARGO_PKG_NAME"),
    variables: &[
        "C10D_CONFORMANCE_RANK",
        "C10D_CONFORMANCE_SUITE",
        "C10D_SUITE",
        "C10D_TORCH_PYTHON",
        "C10D_VENDORS_FORM",
    ],
    ..c10d_core::backend::Provider::EMPTY
};
c10d_core::submit!(SETTINGS);
