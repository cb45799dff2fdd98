#![doc = include_str!("../README.md")]

mod backend;
pub mod buffer;
mod call;
mod cancel;
pub mod device;
mod dispatch;
pub mod dlpack;
mod error;
mod group;
mod job;
pub mod op;
pub mod ops;
pub mod panics;
pub mod process;
pub mod registry;
mod scope;
pub mod staged;
pub mod store;
pub mod types;
mod work;

pub use backend::{Backend, Capabilities};
pub use buffer::{Buf, BufMut, Buffers, Coo, Memory, RawSpans, Root, Span};
pub use call::Call;
pub use cancel::{Cancel, CancelError};
pub use device::DeviceCoo;
pub use dispatch::{BackendMap, Composed, Fingerprint, KernelContext};
pub use error::{Error, ErrorKind, OpError, Phase, Report, Result, Status};
pub use group::{GroupBuilder, GroupInit, ProcessGroup, run_ranks};
pub use job::{Aside, Caller, Job, JobId, Kept, Outcome, Request, let_go};
pub use ops::OpKind;
pub use scope::Scope;
pub use store::{HashStore, PrefixStore, Store};
pub use types::{DType, DTypeSet, Device, DeviceKind, DispatchKey, Element, KeySet, ReduceOp};
pub use work::{ScopedWork, Work};

#[doc(hidden)]
pub mod __private {
    pub use inventory;
}
