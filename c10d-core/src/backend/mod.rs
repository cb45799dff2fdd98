//! The interface between core and backends: the trait [`Backend`], the jobs and requests that backends get, and the
//! registry.
#![allow(unsafe_code)]

mod capabilities;
mod cpu_messages;
mod fetch;
mod fingerprint;
mod frame;
mod group_store;
mod handle;
mod heartbeats;
mod init;
mod kernel;
mod nested;
mod origin;
pub(crate) mod registry;
mod reporting;
mod reports;
mod request;
mod side_channel;
mod sparse_heads;
mod sparse_queue;
mod summary;
mod time;
mod worker_queue;

use std::sync::Arc;
use std::time::Instant;

pub use capabilities::Capabilities;
pub use cpu_messages::CpuMessages;
pub use fingerprint::Fingerprint;
pub(crate) use frame::Frame;
pub(crate) use group_store::GroupStore;
pub use handle::{Job, JobId, WrittenOff};
pub use heartbeats::Heartbeats;
pub use init::GroupInit;
pub(crate) use init::OtherBackends;
pub use kernel::{Composed, KernelContext};
pub(crate) use nested::{Detached, Outer, nested};
pub(crate) use origin::Origin;
pub use registry::{
    BackendMap, DeviceRegistration, InitMethod, Joined, Kernel, KernelRow, PluginLoader, PluginSearch, Provider,
    Registration, Registry, Submitted, TableRow,
};
pub(crate) use reporting::is_reporting;
pub use reports::Reports;
pub use request::{Caller, Request};
pub use side_channel::{Compared, Messages, SideChannel};
pub use sparse_heads::SparseHeads;
pub(crate) use sparse_queue::SparseQueue;
pub(crate) use summary::fingerprint;
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
    /// Whether each element is reduced on one rank, in rank order. If not, the backend has its own order, which is the
    /// same every time.
    pub reduces_in_rank_order: bool,
}

/// An engine that runs the ops of one rank of one group.
///
/// Core has validated every request, so backends need not validate it again.
///
/// # Safety
/// 1. After a job was completed or dropped, or after [`run`](Backend::run) returned, the backend does not use the
///    memory of the spans of that job or call.
/// 2. The backend completes or drops every job, and returns from `run`, at most [`let_go`] after the deadline or after
///    `abort`, whichever is first. This also holds if no thread waits for the job. While the backend completes a job,
///    it holds no lock that `abort` needs.
pub unsafe trait Backend: Send + Sync + 'static {
    /// Returns the name under which the backend was registered.
    fn name(&self) -> &'static str;

    /// Returns the ops and types that the backend offers. The result must not change.
    fn capabilities(&self) -> &Capabilities;

    /// Returns the ops and types that the backend offers on the devices of one dispatch key: by default, those of
    /// [`capabilities`](Backend::capabilities).
    fn capabilities_on(&self, key: DispatchKey) -> &Capabilities {
        let _ = key;
        self.capabilities()
    }

    /// Takes a job. Collectives are submitted in the order of their numbers, one at a time. Point-to-point jobs may be
    /// submitted by several threads at once. If the caller waits (see [`Caller`]), the backend may run the op inside
    /// this function, after all jobs that were queued before it.
    fn submit(&self, job: Job);

    /// Runs a call without a job, on the thread of its caller, which waits. Core calls `run` before
    /// [`submit`](Backend::submit), under the same rules. If the backend cannot run the call this way, it does nothing
    /// and returns `None`. Core then submits the call as a job.
    #[inline]
    fn run(&self, request: &Request) -> Option<Result> {
        let _ = request;
        None
    }

    /// Runs submitted collectives, in their order, on the calling thread, which waits for one of them. The function
    /// returns when `is_done` returns `true`, when there is no call that this thread can run, or at the deadline. If
    /// another thread has begun a call, this thread does not run that call, but it may wait until the call ends.
    fn help(&self, deadline: Instant, is_done: &dyn Fn() -> bool) {
        let _ = (deadline, is_done);
    }

    /// Moves point-to-point messages on the calling thread, which waits for one of them. The function returns when
    /// `is_done` returns `true`, at the deadline, or at once if the backend cannot do that.
    fn help_message(&self, deadline: Instant, is_done: &dyn Fn() -> bool) {
        let _ = (deadline, is_done);
    }

    /// Takes several point-to-point jobs at once. They may depend on each other, such as a send to a rank and a receive
    /// from it.
    fn submit_batch(&self, jobs: Vec<Job>) {
        jobs.into_iter().for_each(|job| self.submit(job));
    }

    /// Takes point-to-point jobs back from the backend. `cancel` returns all of these jobs if no part of a message was
    /// sent or received for any of them. Otherwise it returns an empty list, and all jobs continue. The caller
    /// completes the returned jobs: the backend does not use their memory any more, and matches later messages with
    /// later receives. Any thread may call `cancel` while the handles of the jobs exist, so a job may be done already.
    /// `cancel` must not wait for a peer.
    ///
    /// # Errors
    /// `Unsupported` if the backend cannot return jobs. The jobs continue.
    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        let _ = jobs;
        Err(Error::unsupported(format!(
            "backend {} cannot return ops that it was given, so the op was not cancelled",
            self.name()
        )))
    }

    /// Ends all jobs in flight and all later jobs with this error, and tells the peers. `abort` may be called by any
    /// thread, and several times; only the first cause is used.
    fn abort(&self, cause: &Error);

    /// Returns the error with which the group failed while no call was running, if the backend has noticed such an
    /// error. `failure` must not wait.
    fn failure(&self) -> Option<Error> {
        None
    }

    /// Returns the ranks that are known to be gone, because their processes ended or they left the group. The list
    /// includes ranks that ended or left after the group had failed. `lost` must not wait.
    fn lost(&self) -> Vec<u32> {
        match self.failure() {
            Some(e) if matches!(e.kind(), ErrorKind::PeerDead { .. }) => e.report().guilty.clone(),
            _ => Vec::new(),
        }
    }

    /// Tells the backend that a call of this rank was rejected before the backend got it. If a peer asks what this rank
    /// is doing, the backend can answer with the error. This function must not wait.
    fn refused(&self, op: OpKind, error: &Error) {
        let _ = (op, error);
    }

    /// Returns a function that describes in words for which ranks the jobs in flight wait. The function runs on a
    /// separate thread, and must return within 100 ms. `None` if the backend cannot find that out.
    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        None
    }

    /// Waits until the jobs in flight are done and the peers have received everything that this rank sent. Then the
    /// backend tells the peers that this rank leaves. If the deadline passes first, the backend tells the peers at that
    /// time, and returns an error that names the ranks for which it waited.
    fn shutdown(&self, deadline: Instant) -> Result {
        let _ = deadline;
        Ok(())
    }

    /// Returns an error that names the ranks for which the jobs in flight wait, if the backend can find out these ranks
    /// quickly. If another backend runs its ops on this backend, the other backend calls `overdue` when its ops are
    /// still in flight at the deadline of its `shutdown` or `leave`. The error does not make the group fail.
    fn overdue(&self) -> Option<Error> {
        None
    }

    /// Leaves the group after its last handle was dropped. This is like [`shutdown`](Backend::shutdown), with one
    /// difference: jobs that are in flight at the deadline continue, and the backend tells the peers only after these
    /// jobs are done. After `shutdown`, `leave` does nothing.
    fn leave(&self, deadline: Instant) -> Result {
        self.shutdown(deadline)
    }

    /// Makes the backend of a sub-group of these ranks from this backend, if that is cheaper than making a new backend.
    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let _ = (ranks, init);
        None
    }

    /// Makes the backend of the group's remaining ranks (`ranks`) from this backend, after other ranks are gone, if
    /// that is cheaper than making a new backend. `shrink` must not fail if a new backend could be made. If it returns
    /// `None` on one rank, it must return `None` on all.
    fn shrink(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let _ = (ranks, init);
        None
    }

    /// Core calls `no_split` instead of `split` on a rank that is in no sub-group. So each division of the group calls
    /// one of the two functions on every rank.
    fn no_split(&self) {}

    /// Returns the runtime of the devices whose buffers the backend accepts; `None` for host memory.
    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        None
    }

    /// Returns the number of payload bytes that this rank has sent to peers in collectives so far, if the backend
    /// counts them.
    fn bytes_sent(&self) -> Option<u64> {
        None
    }

    /// Returns the algorithm of a call with these properties, if the backend knows it.
    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        let _ = (op, bytes, dtype, reduce);
        None
    }
}
