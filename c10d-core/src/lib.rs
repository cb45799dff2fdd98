#![doc = include_str!("../README.md")]

mod dispatch;
mod error;
pub mod ops;
pub mod store;
pub mod types;

pub use dispatch::Fingerprint;
pub use error::{Error, ErrorKind, OpError, Phase, Report, Result, Status};
pub use ops::OpKind;
pub use store::{HashStore, PrefixStore, Store};
pub use types::{DType, DTypeSet, Device, DeviceKind, DispatchKey, Element, KeySet, ReduceOp};
