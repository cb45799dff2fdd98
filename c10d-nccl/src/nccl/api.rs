//! What is asked of libnccl, as a trait, so that tests can put something else in its place.
#![allow(unsafe_code)]

use std::ffi::c_void;

use super::types::{Comm, Config, DataType, NcclResult, RedOp, UniqueId, Version};

/// What not every library has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Optional {
    /// Several roots for many ranks (2.23).
    InitRankScalable,
    /// All-to-all as one call (2.28).
    AllToAll,
    /// Leaving ranks behind (2.27).
    Shrink,
}

/// One side of a call: a device address and how many elements.
pub(crate) type Address = u64;

/// The calls of libnccl. Addresses and streams are the device's.
///
/// Groups belong to the calling thread.
///
/// # Safety
/// For all unsafe calls: the communicator is one that `init` or `split` gave and that was not destroyed or aborted; memory
/// and stream belong to its device, stay, and are used by nobody else until the stream has passed the call.
pub(crate) trait NcclApi: Send + Sync {
    /// The library's version.
    fn version(&self) -> Version;
    /// Whether the library has this.
    fn has(&self, what: Optional) -> bool;
    /// The library's words for a code.
    fn error_string(&self, result: NcclResult) -> String;
    /// The library's words for what went wrong last; of the process where there is no communicator.
    fn last_error(&self, comm: Comm) -> String;

    /// A new id.
    fn unique_id(&self) -> Result<UniqueId, NcclResult>;
    /// Joins; returns before the peers are there.
    fn init(&self, size: i32, ids: &[UniqueId], rank: i32, config: &Config) -> (NcclResult, Comm);
    /// Begins to divide a communicator, on which nothing is in flight. The new one, if there is a color, is written to `new`
    /// later, by a thread of the library, before `async_error` of the old one says success: until then `new` must stay.
    unsafe fn split(&self, comm: Comm, color: Option<i32>, key: i32, new: *mut Comm, config: &Config) -> NcclResult;
    /// Begins to make a communicator without these ranks, which take no part; as `split`.
    unsafe fn shrink(&self, comm: Comm, without: &[i32], new: *mut Comm, config: &Config) -> NcclResult;
    /// What the communicator is at.
    unsafe fn async_error(&self, comm: Comm) -> Result<NcclResult, NcclResult>;
    /// Flushes what was issued.
    unsafe fn finalize(&self, comm: Comm) -> NcclResult;
    /// Frees it.
    unsafe fn destroy(&self, comm: Comm) -> NcclResult;
    /// Ends what is in flight and frees it.
    unsafe fn abort(&self, comm: Comm) -> NcclResult;

    /// Begins a group of this thread's calls.
    fn group_start(&self) -> NcclResult;
    /// Ends it: the calls are issued.
    fn group_end(&self) -> NcclResult;

    /// Makes "times this, then the sum"; `scalar` is one element of the type in host memory.
    unsafe fn premul_sum(&self, scalar: &[u8], dtype: DataType, comm: Comm) -> Result<RedOp, NcclResult>;
    /// Gives a made reduction back.
    unsafe fn destroy_op(&self, op: RedOp, comm: Comm) -> NcclResult;

    unsafe fn all_reduce(&self, call: Call, op: RedOp) -> NcclResult;
    unsafe fn reduce(&self, call: Call, op: RedOp, root: i32) -> NcclResult;
    unsafe fn broadcast(&self, call: Call, root: i32) -> NcclResult;
    /// `count` is that of one rank.
    unsafe fn all_gather(&self, call: Call) -> NcclResult;
    /// `count` is that of one rank.
    unsafe fn reduce_scatter(&self, call: Call, op: RedOp) -> NcclResult;
    /// `count` is that of one pair.
    unsafe fn all_to_all(&self, call: Call) -> NcclResult;
    /// From `from`.
    unsafe fn send(&self, call: Call, peer: i32) -> NcclResult;
    /// Into `to`.
    unsafe fn recv(&self, call: Call, peer: i32) -> NcclResult;
}

/// What all data calls have in common.
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
