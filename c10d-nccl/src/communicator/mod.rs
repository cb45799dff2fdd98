//! An owned communicator: connecting, asking for its state, dividing, closing.
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

/// One rank's part of a communicator. If this is dropped, the communicator remains until an abort.
pub(crate) struct Communicator {
    nccl: Arc<dyn NcclApi>,
    comms: Arc<Comms>,
    comm: Comm,
}

impl Communicator {
    /// Begins to connect. `ready` tells when that is done.
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

    /// Begins to divide this communicator. No call may be running, and every rank must call this.
    pub(crate) fn split(&self, color: Option<u32>, key: u32) -> Result<Child> {
        let (color, child) = (color.map(|c| c as i32), Child::default());
        // SAFETY: the communicator is alive while this value owns it; the memory remains until the library has
        // finished.
        let begun = unsafe { self.nccl.split(self.comm, color, key as i32, child.place(), &Config::NONBLOCKING) };
        self.accepted("ncclCommSplit", begun).map(|()| child)
    }

    /// Begins to derive a communicator without these ranks, which do not call this. No call may be running.
    pub(crate) fn shrink(&self, without: &[i32]) -> Result<Child> {
        let child = Child::default();
        // SAFETY: as above.
        let begun = unsafe { self.nccl.shrink(self.comm, without, child.place(), &Config::NONBLOCKING) };
        self.accepted("ncclCommShrink", begun).map(|()| child)
    }

    /// Takes ownership of a derived communicator, and registers it in `comms`.
    pub(crate) fn made(&self, comm: Comm, comms: &Arc<Comms>) -> Result<Communicator> {
        match comm {
            Comm::NULL => Err(Error::new(ErrorKind::Device, "NCCL made no communicator of another, and no error")),
            comm => Ok(Self::entered(&self.nccl, comms, comm)),
        }
    }

    fn accepted(&self, what: &str, result: NcclResult) -> Result {
        if result.is_accepted() { Ok(()) } else { Err(failure(&*self.nccl, self.comm, what, result)) }
    }

    /// Whether everything that was requested is done (calls are issued).
    pub(crate) fn ready(&self) -> Result<bool> {
        // SAFETY: the communicator is alive while this value owns it.
        match unsafe { self.nccl.async_error(self.comm) } {
            Ok(NcclResult::SUCCESS) => Ok(true),
            Ok(NcclResult::IN_PROGRESS) => Ok(false),
            Ok(state) => Err(failure(&*self.nccl, self.comm, "the communicator", state)),
            Err(result) => Err(failure(&*self.nccl, self.comm, "ncclCommGetAsyncError", result)),
        }
    }

    /// An issuer for the calls of one task, whose tensors have the type `dtype`.
    pub(crate) fn issuer<'a>(&'a self, cuda: &'a dyn CudaApi, device: u16, stream: u64, dtype: DType) -> Issuer<'a> {
        // SAFETY: this value owns the communicator, and the channel its stream. The tensors belong to a job, and the
        // job table keeps them from their owner until the stream has finished with them, or until the abort.
        unsafe { Issuer::new(&*self.nccl, cuda, device, self.comm, stream, dtype) }
    }

    /// Destroys a reduction whose call is finished.
    pub(crate) fn destroy_op(&self, op: RedOp) {
        // SAFETY: the reduction was made for this communicator.
        let _ = unsafe { self.nccl.destroy_op(op, self.comm) };
    }

    /// Begins to flush.
    pub(crate) fn finalize(&self) -> Result {
        // SAFETY: the communicator is alive while this value owns it.
        let begun = unsafe { self.nccl.finalize(self.comm) };
        self.accepted("ncclCommFinalize", begun)
    }

    /// Frees the communicator, which must be flushed.
    pub(crate) fn destroy(self) -> Result {
        if !self.comms.remove(self.comm) {
            return Ok(());
        }
        // SAFETY: only this value has the communicator, and it ends here.
        match unsafe { self.nccl.destroy(self.comm) } {
            NcclResult::SUCCESS => Ok(()),
            result => Err(failure(&*self.nccl, Comm::NULL, "ncclCommDestroy", result)),
        }
    }
}
