//! A communicator that is owned: begun, asked, divided, closed.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::{DType, Error, ErrorKind, Result};

mod child;
mod comms;
mod issue;

pub(crate) use child::Child;
pub(crate) use comms::Comms;
pub(crate) use issue::Issuer;

use crate::cuda::CudaApi;
use crate::nccl::{Comm, Config, NcclApi, NcclResult, RedOp, UniqueId, failure};

/// One rank's end of a communicator. Dropped, it stays until an abort.
pub(crate) struct Communicator {
    nccl: Arc<dyn NcclApi>,
    comms: Arc<Comms>,
    comm: Comm,
}

impl Communicator {
    /// Begins to connect; `ready` says when it is done.
    pub(crate) fn begin(
        nccl: &Arc<dyn NcclApi>,
        comms: &Arc<Comms>,
        (rank, size): (u32, u32),
        ids: &[UniqueId],
    ) -> Result<Communicator> {
        let (result, comm) = nccl.init(size as i32, ids, rank as i32, &Config::NONBLOCKING);
        if !result.is_accepted() || comm.is_null() {
            return Err(failure(&**nccl, Comm::NULL, "ncclCommInitRankConfig", result));
        }
        Ok(Self::entered(nccl, comms, comm))
    }

    fn entered(nccl: &Arc<dyn NcclApi>, comms: &Arc<Comms>, comm: Comm) -> Communicator {
        comms.add(comm);
        Communicator { nccl: nccl.clone(), comms: comms.clone(), comm }
    }

    /// Begins to divide this one, on which nothing is in flight; every rank of it calls.
    pub(crate) fn split(&self, color: Option<u32>, key: u32) -> Result<Child> {
        let (color, child) = (color.map(|c| c as i32), Child::default());
        // SAFETY: alive as long as it is ours; the place stays until the library is through with it.
        let begun = unsafe { self.nccl.split(self.comm, color, key as i32, child.place(), &Config::NONBLOCKING) };
        self.accepted("ncclCommSplit", begun).map(|()| child)
    }

    /// Begins to make one without these ranks, which do not call; nothing is in flight.
    pub(crate) fn shrink(&self, without: &[i32]) -> Result<Child> {
        let child = Child::default();
        // SAFETY: as above.
        let begun = unsafe { self.nccl.shrink(self.comm, without, child.place(), &Config::NONBLOCKING) };
        self.accepted("ncclCommShrink", begun).map(|()| child)
    }

    /// Owns what was made of this one, and enters it in `comms`.
    pub(crate) fn made(&self, comm: Comm, comms: &Arc<Comms>) -> Result<Communicator> {
        match comm {
            Comm::NULL => Err(Error::new(ErrorKind::Device, "NCCL made no communicator of another, and no error")),
            comm => Ok(Self::entered(&self.nccl, comms, comm)),
        }
    }

    fn accepted(&self, what: &str, result: NcclResult) -> Result {
        if result.is_accepted() { Ok(()) } else { Err(failure(&*self.nccl, self.comm, what, result)) }
    }

    /// Whether all that was asked of it is done (for calls: issued).
    pub(crate) fn ready(&self) -> Result<bool> {
        // SAFETY: alive as long as it is ours.
        match unsafe { self.nccl.async_error(self.comm) } {
            Ok(NcclResult::SUCCESS) => Ok(true),
            Ok(NcclResult::IN_PROGRESS) => Ok(false),
            Ok(state) => Err(failure(&*self.nccl, self.comm, "the communicator", state)),
            Err(result) => Err(failure(&*self.nccl, self.comm, "ncclCommGetAsyncError", result)),
        }
    }

    /// For the calls of one task, whose tensors are of `dtype`.
    pub(crate) fn issuer<'a>(&'a self, cuda: &'a dyn CudaApi, device: u16, stream: u64, dtype: DType) -> Issuer<'a> {
        // SAFETY: the communicator is ours, the stream its channel's; the tensors are those of a job that the job table keeps
        // from its owner until the stream has passed them, or until the abort.
        unsafe { Issuer::new(&*self.nccl, cuda, device, self.comm, stream, dtype) }
    }

    /// Gives a reduction back whose call is through.
    pub(crate) fn destroy_op(&self, op: RedOp) {
        // SAFETY: made for this communicator.
        let _ = unsafe { self.nccl.destroy_op(op, self.comm) };
    }

    /// Begins to flush.
    pub(crate) fn finalize(&self) -> Result {
        // SAFETY: alive as long as it is ours.
        let begun = unsafe { self.nccl.finalize(self.comm) };
        self.accepted("ncclCommFinalize", begun)
    }

    /// Frees it; it was flushed.
    pub(crate) fn destroy(self) -> Result {
        if !self.comms.remove(self.comm) {
            return Ok(());
        }
        // SAFETY: ours alone, and gone with this value.
        match unsafe { self.nccl.destroy(self.comm) } {
            NcclResult::SUCCESS => Ok(()),
            result => Err(failure(&*self.nccl, Comm::NULL, "ncclCommDestroy", result)),
        }
    }
}
