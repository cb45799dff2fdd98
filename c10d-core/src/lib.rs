#![doc = include_str!("../README.md")]

pub mod backend;
pub mod buffer;
mod call;
pub mod calls;
mod catalog;
pub mod cores;
pub mod device;
mod dispatch;
pub mod dlpack;
mod error;
mod group;
pub mod host;
pub mod library;
pub mod op;
pub mod options;
pub mod panics;
pub mod process;
pub mod reduce;
mod resource;
pub mod shm;
pub mod staged;
pub mod store;
pub mod sync;
pub mod text;
pub mod tiered;
pub mod types;
pub mod waiting;

pub use buffer::{Buf, BufMut, Buffers, Coo, Memory, Outcome, RawSpans, Root, Span};
pub use call::Call;
pub use catalog::OpKind;
pub use device::DeviceCoo;
pub use error::{ENDED_WITHOUT_LEAVING, Error, ErrorKind, ErrorReport, OpError, Phase, Result, Status};
pub use group::{Builder, Cancel, CancelError, ProcessGroup, Scope, ScopedWork, Work};
pub use store::{HashStore, PrefixStore, Store};
pub use types::{DType, DTypeSet, Device, DeviceKind, DispatchKey, Element, KeySet, ReduceOp};

#[doc(hidden)]
pub mod __private {
    pub use inventory;
}
