//! What a backend is.
#![allow(unsafe_code)]

mod capabilities;
mod fetch;
mod fingerprint;
mod frame;
mod handle;
mod heartbeats;
mod init;
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
pub use handle::{Job, JobId, Kept};
pub use heartbeats::Heartbeats;
pub use init::GroupInit;
pub(crate) use init::OtherBackends;
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

/// How a backend does a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlgorithmInfo {
    /// The algorithm's name.
    pub name: &'static str,
    /// Whether every element is reduced once, in the order of the ranks, at one place: then the result is known to the
    /// last bit. Else the order is the backend's own, and the same every time.
    pub reduces_in_rank_order: bool,
}

/// An engine that does collectives for one rank of one group.
///
/// The dispatcher has validated every request before it comes here: backends do not validate again.
///
/// # Safety
/// 1. After completing or dropping a job, nothing touches its spans.
/// 2. Every job is completed or dropped at latest [`let_go`] after its deadline or after `abort`,
///    whichever is first, also when nobody waits for it. No lock that `abort` needs is held while completing a job.
pub unsafe trait Backend: Send + Sync + 'static {
    /// The name under which it was registered.
    fn name(&self) -> &'static str;

    /// What it offers; asked once, when the group is made.
    fn capabilities(&self) -> &Capabilities;

    /// What it offers on the devices of one key, where they differ.
    fn capabilities_on(&self, key: DispatchKey) -> &Capabilities {
        let _ = key;
        self.capabilities()
    }

    /// Takes a job. Collectives come in the order of their numbers, one at a time; point-to-point jobs may come from
    /// several threads at once. If the caller waits (see [`Caller`]), the op may be done here and now,
    /// after whatever was queued before it.
    fn submit(&self, job: Job);

    /// Takes several point-to-point jobs, which may need each other: a message to a rank and one from it, say.
    fn submit_batch(&self, jobs: Vec<Job>) {
        jobs.into_iter().for_each(|job| self.submit(job));
    }

    /// Gives point-to-point jobs back that it was given: all of these, if nothing of any one's message was sent, or came and
    /// was matched with it; else none (the empty list), and they go on. What is given back is its caller's to complete: the
    /// backend has let go of its memory, and messages that come later go to the next receives. From any thread, at any time
    /// between `submit` and the end of the jobs' handles, so a job may be over already. Returns soon: waits for no peer.
    ///
    /// # Errors
    /// `Unsupported`, unless the backend can: the jobs go on.
    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        let _ = jobs;
        Err(Error::unsupported(format!("backend {} cannot take back what it was given", self.name())))
    }

    /// Ends everything in flight and everything to come with this error, and lets the peers know. Any thread, any
    /// number of times; the first cause wins.
    fn abort(&self, cause: &Error);

    /// What the group failed of while nobody asked anything of it, as far as the backend has noticed. Answers at once.
    fn failure(&self) -> Option<Error> {
        None
    }

    /// The ranks that it knows to be gone: their processes ended, or they left the group. All of them, also those that
    /// went after the group had failed. Answers at once; asked while a group is made from this one, so that nobody waits
    /// there for the dead. Unless a backend knows more: those that [`failure`](Backend::failure) names as dead.
    fn lost(&self) -> Vec<u32> {
        match self.failure() {
            Some(e) if matches!(e.kind(), ErrorKind::PeerDead { .. }) => e.report().guilty.clone(),
            _ => Vec::new(),
        }
    }

    /// A call of this rank was refused before the backend had it, so that peers may wait for it in vain: what a backend
    /// says where another rank asks what this one is doing. Answers at once.
    fn refused(&self, op: OpKind, error: &Error) {
        let _ = (op, error);
    }

    /// Finds out, within 100 ms, for whom what is in flight waits, and says it in words; for a thread of its own. `None`:
    /// the backend does not know.
    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        None
    }

    /// Waits for what is in flight, and until the peers have what this rank sent them; then says goodbye to the peers, so
    /// that they do not take the coming silence for death. Says it too when the time is over, and names in the error whom
    /// it waited for.
    fn shutdown(&self, deadline: Instant) -> Result {
        let _ = deadline;
        Ok(())
    }

    /// For whom what is in flight waits, as an error that says so, where the backend can find out within a moment: for
    /// whoever gives up waiting for it. The group does not fail by that.
    fn overdue(&self) -> Option<Error> {
        None
    }

    /// The last handle of the group was dropped. As [`shutdown`](Backend::shutdown), but where the time is over first,
    /// what is in flight goes on, and the goodbye follows when it is over. May come after `shutdown`, and does nothing
    /// then.
    fn leave(&self, deadline: Instant) -> Result {
        self.shutdown(deadline)
    }

    /// A backend for a sub-group of these ranks, if it can be had cheaper than by making a new one.
    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let _ = (ranks, init);
        None
    }

    /// A backend for the group's ranks that are left when others are gone, if it can be had cheaper than by making a new
    /// one. The ranks that are not in the list do not take part. Must not fail where a new one would do: `None` on any
    /// rank must be `None` on all.
    fn shrink(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let _ = (ranks, init);
        None
    }

    /// In place of `split` on a rank that is in no part: every rank of the group hears of each division once, in the same
    /// order.
    fn no_split(&self) {}

    /// The runtime of the devices whose buffers it takes, where it is not the host.
    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        None
    }

    /// Bytes of payload that this rank has sent to peers in collectives so far, where the backend counts them.
    fn bytes_sent(&self) -> Option<u64> {
        None
    }

    /// The algorithm that such a call takes, where the backend knows.
    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        let _ = (op, bytes, dtype, reduce);
        None
    }
}
