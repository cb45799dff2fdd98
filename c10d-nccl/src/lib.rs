#![doc = include_str!("../README.md")]

mod backend;
mod beats;
mod board;
mod boot;
mod channel;
mod check;
mod communicator;
mod cuda;
mod dialect;
mod engine;
mod keeper;
mod kernels;
mod nccl;
mod ops;
mod provider;
mod scratch;
mod side;
#[cfg(feature = "cudarc")]
mod slices;
mod sparse;
mod start;
mod task;
#[cfg(test)]
mod tests;
mod thread;
mod types;

pub use cuda::available;
pub use provider::{PROVIDER, library};
#[cfg(feature = "cudarc")]
pub use slices::{OnDevice, on_device};

/// The backend's name.
pub const NAME: &str = "nccl";
