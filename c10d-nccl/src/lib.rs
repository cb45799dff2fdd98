#![doc = include_str!("../README.md")]
#![cfg_attr(feature = "document-features", doc = concat!("# Features\n\n", document_features::document_features!()))]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod bootstrap;
mod channel;
mod check;
mod communicator;
mod cuda;
mod deadline_watch;
mod dialect;
mod engine;
mod jobs;
mod kernels;
mod nccl;
mod ops;
mod provider;
mod scratch;
#[cfg(feature = "cudarc")]
mod slices;
mod sparse;
mod start;
mod task;
#[cfg(test)]
mod tests;
mod types;

pub use cuda::available;
pub use provider::{PROVIDER, library};
#[cfg(feature = "cudarc")]
pub use slices::{OnDevice, on_device};

/// The backend's name.
pub const NAME: &str = "nccl";
