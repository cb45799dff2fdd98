//! The fake library as `NcclApi`.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

use c10d_core::Result;
use c10d_fake_nccl::{Cpu, nccl};

use crate::nccl::{Call, Comm, Config, DataType, NcclApi, NcclResult, Optional, RedOp, UniqueId, Version};

/// With what its first communicator goes over.
pub(super) struct FakeNccl(pub(super) Cpu);

fn handle(comm: Comm) -> u64 {
    comm.0 as u64
}

fn text(words: *const c_char) -> String {
    // SAFETY: the fake gives strings that end.
    unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
}

fn done<T>(code: c_int, value: T) -> Result<T, NcclResult> {
    if code == 0 { Ok(value) } else { Err(NcclResult(code)) }
}

impl NcclApi for FakeNccl {
    fn version(&self) -> Version {
        let mut version = 0;
        // SAFETY: writes its answer, here and in all calls that answer.
        unsafe { nccl::ncclGetVersion(&mut version) };
        Version(version)
    }
    fn has(&self, _: Optional) -> bool {
        true
    }
    fn error_string(&self, result: NcclResult) -> String {
        text(nccl::ncclGetErrorString(result.0))
    }
    fn last_error(&self, comm: Comm) -> String {
        text(nccl::ncclGetLastError(handle(comm)))
    }
    fn unique_id(&self) -> Result<UniqueId, NcclResult> {
        let mut id = nccl::UniqueId([0; UniqueId::SIZE]);
        // SAFETY: as above.
        let code = unsafe { nccl::ncclGetUniqueId(&mut id) };
        done(code, UniqueId(id.0))
    }
    fn init(&self, size: i32, ids: &[UniqueId], rank: i32, config: &Config) -> (NcclResult, Comm) {
        // SAFETY: the fake's settings are the head of the real ones.
        let config = unsafe { &*(&raw const *config).cast::<nccl::Config>() };
        match nccl::begin(self.0, &nccl::UniqueId(ids[0].0), rank, size, config) {
            Ok(handle) => (NcclResult::IN_PROGRESS, Comm(handle as *mut _)),
            Err(code) => (NcclResult(code), Comm::NULL),
        }
    }
    unsafe fn split(&self, comm: Comm, color: Option<i32>, key: i32, new: *mut Comm, _: &Config) -> NcclResult {
        // SAFETY: the caller's place; the settings are not looked at, here and below.
        NcclResult(unsafe {
            nccl::ncclCommSplit(handle(comm), color.unwrap_or(-1), key, new.cast(), std::ptr::null_mut())
        })
    }
    unsafe fn shrink(&self, comm: Comm, without: &[i32], new: *mut Comm, _: &Config) -> NcclResult {
        let (list, count) = (without.as_ptr(), without.len() as c_int);
        // SAFETY: as above; the list is as long as said.
        NcclResult(unsafe { nccl::ncclCommShrink(handle(comm), list, count, new.cast(), std::ptr::null_mut(), 0) })
    }
    unsafe fn async_error(&self, comm: Comm) -> Result<NcclResult, NcclResult> {
        let mut state = 0;
        // SAFETY: as above.
        let code = unsafe { nccl::ncclCommGetAsyncError(handle(comm), &mut state) };
        done(code, NcclResult(state))
    }
    unsafe fn finalize(&self, comm: Comm) -> NcclResult {
        NcclResult(nccl::ncclCommFinalize(handle(comm)))
    }
    unsafe fn destroy(&self, comm: Comm) -> NcclResult {
        NcclResult(nccl::ncclCommDestroy(handle(comm)))
    }
    unsafe fn abort(&self, comm: Comm) -> NcclResult {
        NcclResult(nccl::ncclCommAbort(handle(comm)))
    }
    fn group_start(&self) -> NcclResult {
        NcclResult(nccl::ncclGroupStart())
    }
    fn group_end(&self) -> NcclResult {
        NcclResult(nccl::ncclGroupEnd())
    }
    unsafe fn premul_sum(&self, scalar: &[u8], dtype: DataType, comm: Comm) -> Result<RedOp, NcclResult> {
        /// The scalar lies in host memory.
        const HOST_IMMEDIATE: c_int = 1;
        let (mut op, scalar) = (0, scalar.as_ptr().cast());
        // SAFETY: one element of the type, as promised.
        let code = unsafe { nccl::ncclRedOpCreatePreMulSum(&mut op, scalar, dtype.0, HOST_IMMEDIATE, handle(comm)) };
        done(code, RedOp(op))
    }
    unsafe fn destroy_op(&self, op: RedOp, comm: Comm) -> NcclResult {
        NcclResult(nccl::ncclRedOpDestroy(op.0, handle(comm)))
    }
    unsafe fn all_reduce(&self, c: Call, op: RedOp) -> NcclResult {
        NcclResult(nccl::ncclAllReduce(c.from, c.to, c.count, c.dtype.0, op.0, handle(c.comm), c.stream))
    }
    unsafe fn reduce(&self, c: Call, op: RedOp, root: i32) -> NcclResult {
        NcclResult(nccl::ncclReduce(c.from, c.to, c.count, c.dtype.0, op.0, root, handle(c.comm), c.stream))
    }
    unsafe fn broadcast(&self, c: Call, root: i32) -> NcclResult {
        NcclResult(nccl::ncclBroadcast(c.from, c.to, c.count, c.dtype.0, root, handle(c.comm), c.stream))
    }
    unsafe fn all_gather(&self, c: Call) -> NcclResult {
        NcclResult(nccl::ncclAllGather(c.from, c.to, c.count, c.dtype.0, handle(c.comm), c.stream))
    }
    unsafe fn reduce_scatter(&self, c: Call, op: RedOp) -> NcclResult {
        NcclResult(nccl::ncclReduceScatter(c.from, c.to, c.count, c.dtype.0, op.0, handle(c.comm), c.stream))
    }
    unsafe fn all_to_all(&self, c: Call) -> NcclResult {
        NcclResult(nccl::ncclAlltoAll(c.from, c.to, c.count, c.dtype.0, handle(c.comm), c.stream))
    }
    unsafe fn send(&self, c: Call, peer: i32) -> NcclResult {
        NcclResult(nccl::ncclSend(c.from, c.count, c.dtype.0, peer, handle(c.comm), c.stream))
    }
    unsafe fn recv(&self, c: Call, peer: i32) -> NcclResult {
        NcclResult(nccl::ncclRecv(c.to, c.count, c.dtype.0, peer, handle(c.comm), c.stream))
    }
}
