//! The interface between core and backends.
#![allow(unsafe_code)]

mod capabilities;
mod fetch;
mod fingerprint;
mod frame;
mod handle;
mod heartbeats;
mod init;
mod interruptible_store;
mod kernel;
mod neighbours;
mod nested;
mod origin;
pub(crate) mod registry;
mod reports;
mod request;
mod side_channel;
mod sparse_heads;
mod sparse_queue;
mod summary;
mod telling;
mod time;
mod worker_queue;

use std::sync::Arc;
use std::time::Instant;

pub use capabilities::Capabilities;
pub use fingerprint::Fingerprint;
pub(crate) use frame::Frame;
pub use handle::{Job, JobId, WrittenOff};
pub use heartbeats::Heartbeats;
pub use init::GroupInit;
pub(crate) use init::OtherBackends;
pub(crate) use interruptible_store::InterruptibleStore;
pub use kernel::{Composed, KernelContext};
pub use neighbours::{Compared, Messages, SideChannel};
pub(crate) use nested::{Detached, Outer, nested};
pub(crate) use origin::Origin;
pub use registry::{
    BackendMap, DeviceRegistration, InitMethod, Joined, Kernel, KernelRow, PluginLoader, PluginSearch, Provider,
    Registration, Registry, Submitted, TableRow,
};
pub use reports::Reports;
pub use request::{Caller, Request};
pub use side_channel::CpuMessages;
pub use sparse_heads::SparseHeads;
pub(crate) use sparse_queue::SparseQueue;
pub(crate) use summary::fingerprint;
pub(crate) use telling::is_telling;
pub use time::let_go;
pub(crate) use time::overdue;
pub use worker_queue::WorkerQueue;

use crate::catalog::OpKind;
pub use crate::catalog::{OpRow, OpSet, Shape, declared};
use crate::device::DeviceRuntime;
pub use crate::options::params::Params;
use crate::types::{DType, DispatchKey, ReduceOp};
use crate::{Error, ErrorKind, Result};

/// The algorithm that a backend uses for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlgorithmInfo {
    /// The algorithm's name.
    pub name: &'static str,
    /// Whether every element is reduced on one rank, in rank order, which determines every bit of the result. Otherwise
    /// the backend has its own order, which is the same every time.
    pub reduces_in_rank_order: bool,
}

/// An engine that does collectives for one rank of one group.
///
/// Core has validated every request before it gets here; backends do not validate again.
///
/// # Safety
/// 1. After completing or dropping a job, or returning from [`run`](Backend::run), nothing touches its spans.
/// 2. Every job is completed or dropped, and `run` returns, by [`let_go`] after the deadline or after `abort`, whichever
///    comes first, even if nobody waits for it. No lock that `abort` needs is held while a job is completed.
pub unsafe trait Backend: Send + Sync + 'static {
    /// The name under which it was registered.
    fn name(&self) -> &'static str;

    /// The ops and types that it offers. Core asks once, when the group is made.
    fn capabilities(&self) -> &Capabilities;

    /// The ops and types that it offers on the devices of one key, if they differ from
    /// [`capabilities`](Backend::capabilities).
    fn capabilities_on(&self, key: DispatchKey) -> &Capabilities {
        let _ = key;
        self.capabilities()
    }

    /// Takes a job. Collectives come in the order of their numbers, one at a time; point-to-point jobs may come from
    /// several threads at once. If the caller waits (see [`Caller`]), the backend may run the op inside this call,
    /// after all jobs that were queued before it.
    fn submit(&self, job: Job);

    /// Runs a call whose caller waits on this thread, if that is possible, without a job. Core calls it instead of
    /// [`submit`](Backend::submit), under the same rules. `None`: the backend has done nothing, and core submits the call.
    #[inline]
    fn run(&self, request: &Request) -> Option<Result> {
        let _ = request;
        None
    }

    /// Takes several point-to-point jobs that may depend on each other, such as a message to a rank and one from it.
    fn submit_batch(&self, jobs: Vec<Job>) {
        jobs.into_iter().for_each(|job| self.submit(job));
    }

    /// Takes point-to-point jobs back from the backend. It returns all of these jobs if no part of their messages was
    /// sent, or has arrived and was matched; otherwise it returns an empty list, and the jobs go on. The caller
    /// completes the returned jobs: the backend does not use their memory any more, and later messages go to the next
    /// receives. It is called from any thread, at any time between `submit` and the end of the jobs' handles, so a job
    /// may be done already. It does not wait for a peer.
    ///
    /// # Errors
    /// `Unsupported` if the backend cannot take jobs back; the jobs go on.
    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        let _ = jobs;
        Err(Error::unsupported(format!("backend {} cannot take back what it was given", self.name())))
    }

    /// Ends all jobs in flight and all later ones with this error, and tells the peers. It may be called from any
    /// thread, any number of times; the first cause counts.
    fn abort(&self, cause: &Error);

    /// The error by which the group failed while no call was running, if the backend has noticed one. It answers at
    /// once.
    fn failure(&self) -> Option<Error> {
        None
    }

    /// The ranks that are known to be gone: their processes ended, or they left the group. The list also has those that
    /// went after the group had failed. It answers at once. It is asked while a new group is made from this one, so
    /// that no rank waits for dead ones. The default is the ranks that [`failure`](Backend::failure) names as dead.
    fn lost(&self) -> Vec<u32> {
        match self.failure() {
            Some(e) if matches!(e.kind(), ErrorKind::PeerDead { .. }) => e.report().guilty.clone(),
            _ => Vec::new(),
        }
    }

    /// Tells the backend that a call of this rank was rejected before the backend got it. Peers may wait for that call,
    /// and the backend tells a peer that asks what this rank is doing. It answers at once.
    fn refused(&self, op: OpKind, error: &Error) {
        let _ = (op, error);
    }

    /// Returns a function that finds out within 100 ms which ranks the jobs in flight wait for, and describes it in
    /// words. It runs on a thread of its own. `None`: the backend does not know.
    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        None
    }

    /// Waits for the jobs in flight, and until the peers have received everything that this rank sent. Then it says
    /// goodbye to the peers, so that they do not take this rank for dead. If the deadline passes first, it says goodbye
    /// all the same, and the error names the ranks for which it waited.
    fn shutdown(&self, deadline: Instant) -> Result {
        let _ = deadline;
        Ok(())
    }

    /// The ranks for which the jobs in flight wait, as an error, if the backend can find them out quickly. It is for a
    /// caller that gives up waiting. The group does not fail by it.
    fn overdue(&self) -> Option<Error> {
        None
    }

    /// The last handle of the group was dropped. This is like [`shutdown`](Backend::shutdown), except that at the
    /// deadline the jobs in flight go on, and the goodbye follows when they are done. If it comes after `shutdown`, it
    /// does nothing.
    fn leave(&self, deadline: Instant) -> Result {
        self.shutdown(deadline)
    }

    /// Makes a backend for a sub-group of these ranks, if that is cheaper than making a new one.
    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let _ = (ranks, init);
        None
    }

    /// Makes a backend for the remaining ranks of the group after others are gone, if that is cheaper than making a new
    /// one. The ranks that are not in the list do not take part. It must not fail where making a new one would work. If
    /// one rank returns `None`, all must.
    fn shrink(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let _ = (ranks, init);
        None
    }

    /// Called in place of `split` on a rank that is in no sub-group. Every rank of the group learns of each division
    /// once, in the same order.
    fn no_split(&self) {}

    /// The runtime of the devices whose buffers it accepts; `None` for host memory.
    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        None
    }

    /// The number of payload bytes that this rank has sent to peers in collectives so far, if the backend counts them.
    fn bytes_sent(&self) -> Option<u64> {
        None
    }

    /// The algorithm of a call with these properties, if the backend knows it.
    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        let _ = (op, bytes, dtype, reduce);
        None
    }
}
