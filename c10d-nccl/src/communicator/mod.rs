//! A communicator, with methods that connect it, check it for errors, divide it and destroy it.
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

/// One rank's part of a communicator. If this value is dropped without [`destroy`](Self::destroy), the communicator
/// stays in the [`Comms`], and exists until [`Comms::abort`].
pub(crate) struct Communicator {
    nccl: Arc<dyn NcclApi>,
    comms: Arc<Comms>,
    comm: Comm,
}

impl Communicator {
    /// Begins to connect the ranks. They are connected when `ready` returns `true`.
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

    /// Begins to divide this communicator. Every rank must call this, while no other call is running on the
    /// communicator.
    pub(crate) fn split(&self, color: Option<u32>, key: u32) -> Result<Child> {
        let (color, child) = (color.map(|c| c as i32), Child::default());
        // SAFETY: the communicator exists as long as this value. `Child` keeps its memory until NCCL has written to it.
        let begun = unsafe { self.nccl.split(self.comm, color, key as i32, child.place(), &Config::NONBLOCKING) };
        self.accepted("ncclCommSplit", begun).map(|()| child)
    }

    /// Begins to derive a communicator without these ranks. Only the ranks that stay call this, while no other call is
    /// running on the communicator.
    pub(crate) fn shrink(&self, without: &[i32]) -> Result<Child> {
        let child = Child::default();
        // SAFETY: the same as in `split`.
        let begun = unsafe { self.nccl.shrink(self.comm, without, child.place(), &Config::NONBLOCKING) };
        self.accepted("ncclCommShrink", begun).map(|()| child)
    }

    /// Takes ownership of a derived communicator, and registers it in `comms`.
    pub(crate) fn made(&self, comm: Comm, comms: &Arc<Comms>) -> Result<Communicator> {
        match comm {
            Comm::NULL => Err(Error::new(ErrorKind::Device, "NCCL derived no communicator, and reported no error")),
            comm => Ok(Self::entered(&self.nccl, comms, comm)),
        }
    }

    fn accepted(&self, what: &str, result: NcclResult) -> Result {
        if result.is_accepted() { Ok(()) } else { Err(failure(&*self.nccl, self.comm, what, result)) }
    }

    /// Whether NCCL has finished everything that was requested. An op is finished in this sense when it is on the
    /// stream.
    pub(crate) fn ready(&self) -> Result<bool> {
        // SAFETY: the communicator exists as long as this value.
        match unsafe { self.nccl.async_error(self.comm) } {
            Ok(NcclResult::SUCCESS) => Ok(true),
            Ok(NcclResult::IN_PROGRESS) => Ok(false),
            Ok(state) => Err(failure(&*self.nccl, self.comm, "the communicator", state)),
            Err(result) => Err(failure(&*self.nccl, self.comm, "ncclCommGetAsyncError", result)),
        }
    }

    /// Makes an issuer for the NCCL calls of one task (the description of a job). The task's tensors have the type
    /// `dtype`.
    pub(crate) fn issuer<'a>(&'a self, cuda: &'a dyn CudaApi, device: u16, stream: u64, dtype: DType) -> Issuer<'a> {
        // SAFETY: this value owns the communicator. The channel to which this value belongs owns the stream. The
        // tensors belong to a job, which the job table keeps until the stream has finished with them, or until the
        // abort.
        unsafe { Issuer::new(&*self.nccl, cuda, device, self.comm, stream, dtype) }
    }

    /// Destroys an operation that `Issuer::make` made. The calls that use the operation must be on the stream.
    pub(crate) fn destroy_op(&self, op: RedOp) {
        // SAFETY: the operation was made for this communicator.
        let _ = unsafe { self.nccl.destroy_op(op, self.comm) };
    }

    /// Begins to flush the communicator.
    pub(crate) fn finalize(&self) -> Result {
        // SAFETY: the communicator exists as long as this value.
        let begun = unsafe { self.nccl.finalize(self.comm) };
        self.accepted("ncclCommFinalize", begun)
    }

    /// Frees the communicator, which must be flushed.
    pub(crate) fn destroy(self) -> Result {
        if !self.comms.remove(self.comm) {
            return Ok(());
        }
        // SAFETY: only this value has the communicator, which is removed from the list, and the value ends here.
        match unsafe { self.nccl.destroy(self.comm) } {
            NcclResult::SUCCESS => Ok(()),
            result => Err(failure(&*self.nccl, Comm::NULL, "ncclCommDestroy", result)),
        }
    }
}
