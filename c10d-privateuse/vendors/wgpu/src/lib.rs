#![doc = include_str!("../README.md")]

mod copies;
mod gpu;
mod kernel;
mod memory;
mod provider;
mod runtime;
mod streams;

pub use provider::{PROVIDER, runtime};
pub use runtime::Wgpu;
