#![doc = include_str!("../README.md")]

mod control;
mod event;
mod faults;
mod log;
mod memory;
mod provider;
mod reduce;
mod reduction;
mod runtime;
mod stream;

pub use log::{Entry, What};
pub use provider::{PROVIDER, reducing, runtime};
pub use runtime::Guarded;
