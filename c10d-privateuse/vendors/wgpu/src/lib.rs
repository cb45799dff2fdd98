#![doc = include_str!("../README.md")]

mod copies;
mod gpu;
mod kernel;
mod memory;
mod provider;
mod runtime;
mod streams;
mod tensor;

pub use provider::{PROVIDER, adopt, runtime};
pub use runtime::Wgpu;
pub use tensor::Tensor;
