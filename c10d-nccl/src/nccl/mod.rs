//! libnccl: found, loaded and called by this crate itself.

mod api;
mod child;
mod communicator;
mod issue;
mod library;
mod mapped;
mod real;
mod search;
mod types;

#[cfg(test)]
pub(crate) use api::Call as RawCall;
pub(crate) use api::{Address, NcclApi, Optional};
pub(crate) use child::Child;
pub(crate) use communicator::Communicator;
pub(crate) use issue::{Issuer, failure};
pub(crate) use library::{Library, words};
pub(crate) use types::{Comm, DataType, NcclResult, RedOp, UniqueId};
#[cfg(test)]
pub(crate) use types::{Config, Version};
