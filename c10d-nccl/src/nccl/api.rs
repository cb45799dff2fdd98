//! The functions of libnccl that this crate uses, as a trait that tests can implement.
#![allow(unsafe_code)]

use std::ffi::c_void;

use super::types::{Comm, Config, DataType, NcclResult, RedOp, UniqueId, Version};

/// A function that not every version of libnccl has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Optional {
    /// `ncclCommInitRankScalable`: several unique ids for a communicator of many ranks (since 2.23).
    InitRankScalable,
    /// `ncclAlltoAll` (since 2.28).
    AllToAll,
    /// `ncclCommShrink`: a communicator without some of the ranks (since 2.27).
    Shrink,
}

pub(crate) type Address = u64;

/// The functions of libnccl. Addresses and streams are those of the device.
///
/// An NCCL group belongs to the thread that started it.
///
/// # Safety
/// For all unsafe functions: the communicator comes from `init`, `split` or `shrink`, and was not destroyed or aborted.
/// The memory and the stream of a call belong to the communicator's device. Until the stream has finished the call,
/// both exist, and nothing else uses the memory.
pub(crate) trait NcclApi: Send + Sync {
    fn version(&self) -> Version;
    fn has(&self, what: Optional) -> bool;
    fn error_string(&self, result: NcclResult) -> String;
    /// Returns the library's description of the last error of the communicator, or of the process if `comm` is null.
    fn last_error(&self, comm: Comm) -> String;

    fn unique_id(&self) -> Result<UniqueId, NcclResult>;
    /// Joins a communicator. This returns before the peers have joined.
    fn init(&self, size: i32, ids: &[UniqueId], rank: i32, config: &Config) -> (NcclResult, Comm);
    /// Begins to divide a communicator on which no call is running. If there is a color, a thread of the library writes
    /// the new communicator to `new`, before `async_error` of the old communicator reports success. `new` must be valid
    /// until `async_error` reports success.
    unsafe fn split(&self, comm: Comm, color: Option<i32>, key: i32, new: *mut Comm, config: &Config) -> NcclResult;
    /// Begins to derive a communicator without these ranks, which must not call this function. Otherwise, this function
    /// is the same as `split`.
    unsafe fn shrink(&self, comm: Comm, without: &[i32], new: *mut Comm, config: &Config) -> NcclResult;
    /// Returns the state of the communicator.
    unsafe fn async_error(&self, comm: Comm) -> Result<NcclResult, NcclResult>;
    /// Begins to flush the calls that were issued.
    unsafe fn finalize(&self, comm: Comm) -> NcclResult;
    /// Frees the communicator.
    unsafe fn destroy(&self, comm: Comm) -> NcclResult;
    /// Ends running calls, and frees the communicator.
    unsafe fn abort(&self, comm: Comm) -> NcclResult;

    fn group_start(&self) -> NcclResult;
    /// Ends the group and issues its calls.
    fn group_end(&self) -> NcclResult;

    /// Makes the operation that multiplies each value by `scalar` and then sums. `scalar` is one element of the type,
    /// in host memory.
    unsafe fn premul_sum(&self, scalar: &[u8], dtype: DataType, comm: Comm) -> Result<RedOp, NcclResult>;
    unsafe fn destroy_op(&self, op: RedOp, comm: Comm) -> NcclResult;

    unsafe fn all_reduce(&self, call: Call, op: RedOp) -> NcclResult;
    unsafe fn reduce(&self, call: Call, op: RedOp, root: i32) -> NcclResult;
    unsafe fn broadcast(&self, call: Call, root: i32) -> NcclResult;
    /// The count is the number of elements of one rank.
    unsafe fn all_gather(&self, call: Call) -> NcclResult;
    /// The count is the number of elements of one rank.
    unsafe fn reduce_scatter(&self, call: Call, op: RedOp) -> NcclResult;
    /// The count is the number of elements from one rank to one rank.
    unsafe fn all_to_all(&self, call: Call) -> NcclResult;
    /// Sends the elements at `from`.
    unsafe fn send(&self, call: Call, peer: i32) -> NcclResult;
    /// Receives elements to `to`.
    unsafe fn recv(&self, call: Call, peer: i32) -> NcclResult;
}

/// The arguments that all data calls have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) count: usize,
    pub(crate) dtype: DataType,
    pub(crate) comm: Comm,
    pub(crate) stream: u64,
}

impl Call {
    pub(super) fn source(&self) -> *const c_void {
        self.from as *const c_void
    }

    pub(super) fn target(&self) -> *mut c_void {
        self.to as *mut c_void
    }

    pub(super) fn stream(&self) -> *mut c_void {
        self.stream as *mut c_void
    }
}
