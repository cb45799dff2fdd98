#![doc = include_str!("../README.md")]

pub mod abi;
mod host;
mod load;

pub use load::{Decision, Refusal, Report, Rule, Search, Verdict};
