//! libnccl: found, loaded and called by this crate itself.

mod api;
mod communicator;
mod issue;
mod library;
mod mapped;
mod real;
mod search;
mod types;

pub(crate) use api::{Address, NcclApi, Optional};
pub(crate) use communicator::Communicator;
pub(crate) use issue::{Issuer, failure};
pub(crate) use library::{Library, words};
pub(crate) use types::{Comm, DataType, NcclResult, RedOp, UniqueId};
