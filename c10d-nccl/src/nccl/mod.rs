//! libnccl, which this crate finds, loads and calls by itself.

mod api;
mod failure;
mod library;
mod real;
mod search;
mod types;

pub(crate) use api::{Address, Call, NcclApi, Optional};
pub(crate) use failure::failure;
pub(crate) use library::Library;
#[cfg(test)]
pub(crate) use types::Version;
pub(crate) use types::{Comm, Config, DataType, NcclResult, RedOp, UniqueId};
