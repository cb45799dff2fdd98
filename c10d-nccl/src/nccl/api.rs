//! The functions of libnccl that this crate uses, as a trait that tests can implement.
#![allow(unsafe_code)]

use std::ffi::c_void;

use super::types::{Comm, Config, DataType, NcclResult, RedOp, UniqueId, Version};

/// Functions that not every version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Optional {
    /// Several roots for many ranks (2.23).
    InitRankScalable,
    /// A call for all-to-all (2.28).
    AllToAll,
    /// A communicator without some ranks (2.27).
    Shrink,
}

/// A device address.
pub(crate) type Address = u64;

/// The calls of libnccl. Addresses and streams are the device's.
///
/// Groups belong to the calling thread.
///
/// # Safety
/// For all unsafe calls: the communicator comes from `init`, `split` or `shrink`, and was not destroyed or aborted;
/// memory and stream belong to its device. They remain, and nothing else uses them, until the stream has finished the
/// call.
pub(crate) trait NcclApi: Send + Sync {
    /// The library's version.
    fn version(&self) -> Version;
    /// Whether the library has this function.
    fn has(&self, what: Optional) -> bool;
    /// The library's description of a code.
    fn error_string(&self, result: NcclResult) -> String;
    /// The library's description of the last error: of the communicator, or of the process if the communicator is null.
    fn last_error(&self, comm: Comm) -> String;

    /// Makes a new id.
    fn unique_id(&self) -> Result<UniqueId, NcclResult>;
    /// Joins a communicator. Returns before the peers have joined.
    fn init(&self, size: i32, ids: &[UniqueId], rank: i32, config: &Config) -> (NcclResult, Comm);
    /// Begins to divide a communicator without running calls. If there is a color, a thread of the library later writes
    /// the new one to `new`, before `async_error` of the old one reports success. `new` must remain until then.
    unsafe fn split(&self, comm: Comm, color: Option<i32>, key: i32, new: *mut Comm, config: &Config) -> NcclResult;
    /// Begins to derive a communicator without these ranks, which take no part. The rest is as for `split`.
    unsafe fn shrink(&self, comm: Comm, without: &[i32], new: *mut Comm, config: &Config) -> NcclResult;
    /// The state of the communicator.
    unsafe fn async_error(&self, comm: Comm) -> Result<NcclResult, NcclResult>;
    /// Flushes the issued calls.
    unsafe fn finalize(&self, comm: Comm) -> NcclResult;
    /// Frees the communicator.
    unsafe fn destroy(&self, comm: Comm) -> NcclResult;
    /// Ends running calls and frees the communicator.
    unsafe fn abort(&self, comm: Comm) -> NcclResult;

    /// Begins a group of calls on this thread.
    fn group_start(&self) -> NcclResult;
    /// Ends the group and issues its calls.
    fn group_end(&self) -> NcclResult;

    /// Makes the operation "multiply by this, then sum". `scalar` is one element of the type in host memory.
    unsafe fn premul_sum(&self, scalar: &[u8], dtype: DataType, comm: Comm) -> Result<RedOp, NcclResult>;
    /// Destroys an operation that was made.
    unsafe fn destroy_op(&self, op: RedOp, comm: Comm) -> NcclResult;

    unsafe fn all_reduce(&self, call: Call, op: RedOp) -> NcclResult;
    unsafe fn reduce(&self, call: Call, op: RedOp, root: i32) -> NcclResult;
    unsafe fn broadcast(&self, call: Call, root: i32) -> NcclResult;
    /// The count is that of one rank.
    unsafe fn all_gather(&self, call: Call) -> NcclResult;
    /// The count is that of one rank.
    unsafe fn reduce_scatter(&self, call: Call, op: RedOp) -> NcclResult;
    /// The count is that of one pair of ranks.
    unsafe fn all_to_all(&self, call: Call) -> NcclResult;
    /// Sends from `from`.
    unsafe fn send(&self, call: Call, peer: i32) -> NcclResult;
    /// Receives into `to`.
    unsafe fn recv(&self, call: Call, peer: i32) -> NcclResult;
}

/// The common arguments of all data calls.
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
