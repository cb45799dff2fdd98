//! A safe interface to the calls on one communicator and stream.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use c10d_core::device::DevicePtr;
use c10d_core::{DType, Error, Result};

use crate::cuda::CudaApi;
use crate::nccl::{Call, Comm, NcclApi, NcclResult, Optional, RedOp, failure};
use crate::task::DeviceSpan;
use crate::types::{Reduction, moved, scalar};

/// Issues the NCCL calls of one task (the description of a job). It is not `Send`, since NCCL's groups belong to a
/// thread.
pub(crate) struct Issuer<'a> {
    nccl: &'a dyn NcclApi,
    cuda: &'a dyn CudaApi,
    device: u16,
    comm: Comm,
    stream: u64,
    dtype: DType,
    /// Whether NCCL has accepted a call but not put it on the stream yet.
    pending: bool,
    _here: PhantomData<*const ()>,
}

impl<'a> Issuer<'a> {
    /// # Safety
    /// The communicator and the stream exist and belong to this device. All tensors that the methods get have the type
    /// `dtype` and are in this device's memory. Until the stream has finished the calls, the tensors exist and nothing
    /// else uses them.
    pub(crate) unsafe fn new(
        nccl: &'a dyn NcclApi,
        cuda: &'a dyn CudaApi,
        device: u16,
        comm: Comm,
        stream: u64,
        dtype: DType,
    ) -> Issuer<'a> {
        Issuer { nccl, cuda, device, comm, stream, dtype, pending: false, _here: PhantomData }
    }

    /// Whether NCCL must still be asked whether all calls are on the stream.
    pub(crate) fn pending(&self) -> bool {
        self.pending
    }

    pub(crate) fn has_all_to_all(&self) -> bool {
        self.nccl.has(Optional::AllToAll)
    }

    /// Issues the calls of `body` in one NCCL group.
    pub(crate) fn group(&mut self, body: impl FnOnce(&mut Self) -> Result) -> Result {
        let started = self.nccl.group_start();
        self.checked("ncclGroupStart", started)?;
        let issued = body(self);
        // A group that was started must be ended, even if its calls failed.
        let ended = self.nccl.group_end();
        issued.and(self.checked("ncclGroupEnd", ended))
    }

    /// Returns NCCL's operation for a reduction. If this function made the operation, it is also the second value, and
    /// the caller must destroy it later.
    pub(crate) fn make(&mut self, reduction: Reduction) -> Result<(RedOp, Option<RedOp>)> {
        match reduction {
            Reduction::Is(op) => Ok((op, None)),
            Reduction::Scaled(factor) => {
                let (dtype, _) = moved(self.dtype);
                // SAFETY: the scalar is one element of this type.
                let op = unsafe { self.nccl.premul_sum(&scalar(factor, dtype), dtype, self.comm) };
                let op = op.map_err(|r| self.failed("ncclRedOpCreatePreMulSum", r))?;
                Ok((op, Some(op)))
            }
        }
    }

    pub(crate) fn all_reduce(&mut self, buffer: DeviceSpan, op: RedOp) -> Result {
        // SAFETY: in this method and all below, the caller of `new` guarantees memory, communicator and stream.
        let result = unsafe { self.nccl.all_reduce(self.call(buffer.at, buffer.at, buffer.count), op) };
        self.checked("ncclAllReduce", result)
    }

    pub(crate) fn reduce(&mut self, from: DeviceSpan, to: DeviceSpan, op: RedOp, root: u32) -> Result {
        // SAFETY: see `all_reduce`.
        let result = unsafe { self.nccl.reduce(self.call(from.at, to.at, from.count), op, root as i32) };
        self.checked("ncclReduce", result)
    }

    pub(crate) fn broadcast(&mut self, from: DeviceSpan, to: DeviceSpan, root: u32) -> Result {
        // SAFETY: see `all_reduce`.
        let result = unsafe { self.nccl.broadcast(self.call(from.at, to.at, to.count), root as i32) };
        self.checked("ncclBroadcast", result)
    }

    pub(crate) fn all_gather(&mut self, from: DeviceSpan, to: DeviceSpan) -> Result {
        // SAFETY: see `all_reduce`.
        let result = unsafe { self.nccl.all_gather(self.call(from.at, to.at, from.count)) };
        self.checked("ncclAllGather", result)
    }

    pub(crate) fn reduce_scatter(&mut self, from: DeviceSpan, to: DeviceSpan, op: RedOp) -> Result {
        // SAFETY: see `all_reduce`.
        let result = unsafe { self.nccl.reduce_scatter(self.call(from.at, to.at, to.count), op) };
        self.checked("ncclReduceScatter", result)
    }

    /// Sends `each` elements to each rank, and receives as many from each.
    pub(crate) fn all_to_all(&mut self, from: DeviceSpan, to: DeviceSpan, each: usize) -> Result {
        // SAFETY: see `all_reduce`.
        let result = unsafe { self.nccl.all_to_all(self.call(from.at, to.at, each)) };
        self.checked("ncclAlltoAll", result)
    }

    pub(crate) fn send(&mut self, from: DeviceSpan, peer: u32) -> Result {
        if from.count == 0 {
            return Ok(());
        }
        // SAFETY: see `all_reduce`.
        let result = unsafe { self.nccl.send(self.call(from.at, 0, from.count), peer as i32) };
        self.checked("ncclSend", result)
    }

    pub(crate) fn recv(&mut self, to: DeviceSpan, peer: u32) -> Result {
        if to.count == 0 {
            return Ok(());
        }
        // SAFETY: see `all_reduce`.
        let result = unsafe { self.nccl.recv(self.call(0, to.at, to.count), peer as i32) };
        self.checked("ncclRecv", result)
    }

    pub(crate) fn copy(&mut self, from: DeviceSpan, to: DeviceSpan) -> Result {
        if from.at == to.at || from.count == 0 {
            return Ok(());
        }
        let place = |part: DeviceSpan| DevicePtr { base: part.at as *mut (), offset: 0 };
        // SAFETY: see `all_reduce`.
        unsafe { self.cuda.copy(self.device, self.stream, place(to), place(from), from.bytes()) }
    }

    fn call(&self, from: u64, to: u64, count: usize) -> Call {
        let (dtype, times) = moved(self.dtype);
        Call { from, to, count: count * times, dtype, comm: self.comm, stream: self.stream }
    }

    fn checked(&mut self, what: &'static str, result: NcclResult) -> Result {
        match result {
            NcclResult::SUCCESS => Ok(()),
            NcclResult::IN_PROGRESS => {
                self.pending = true;
                Ok(())
            }
            result => Err(self.failed(what, result)),
        }
    }

    fn failed(&self, what: &str, result: NcclResult) -> Error {
        failure(self.nccl, self.comm, what, result)
    }
}
