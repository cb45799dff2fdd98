#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bits;
mod coalesce;
mod fold;
mod kernel;
mod keys;
mod known;
mod memory;
mod meta;
mod provider;
mod run;
mod split;
mod union;
mod value;

pub use provider::PROVIDER;
