#![doc = include_str!("../README.md")]

mod case;
mod cases;
mod check;
mod data;
mod executor;
mod fold;
mod harness;
mod issue;
mod place;
mod processes;
mod raw;
mod reference;
mod run;
mod suite;
mod tensor;

pub use cases::Selection;
pub use executor::block_on;
pub use harness::Program;
pub use suite::{Outcome, Ranks, Suite};
