//! Process groups: how they are made, what they contain, and how calls run on them.

mod aim;
mod batch;
mod builder;
mod cancel;
mod deferred;
mod join;
mod lane;
mod leave;
mod methods;
mod other_backends;
mod ranks;
mod routes;
mod run;
mod scope;
mod subgroup;
mod survivors;
mod work;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use builder::Builder;
pub use cancel::{Cancel, CancelError};
use lane::Lane;
use routes::{Route, Routes};
use run::observe;
pub use scope::Scope;
pub use work::{ScopedWork, Work};

use crate::backend::{AlgorithmInfo, Backend, BackendMap, Capabilities, Frame, GroupStore, Origin, Registry};
use crate::catalog::OpKind;
use crate::panics::contain;
use crate::process::Process;
use crate::store::{Store, deadline_after};
use crate::types::{DType, Device, DispatchKey, ReduceOp};
use crate::{Error, ErrorKind, Result};

/// A group of ranks that run collectives together. Each rank has its own `ProcessGroup`.
///
/// The value is a handle: it is cheap to clone and can be used from any thread. All ranks must call the collectives of
/// a group in the same order. If they do not, the calls return [`ErrorKind::Mismatch`], on most backends before any
/// payload is used. Point-to-point ops are matched by peer and tag and may be called in any order.
///
/// After an error with status [`Failed`](crate::Status::Failed) the group cannot be used any more: every later call
/// returns the first error.
///
/// The drop of the last clone waits until the started operations are done and the peers have received everything that
/// this rank sent. Then the drop tells the peers that this rank leaves. If the time of
/// [`drop_within`](Builder::drop_within) (10 s by default) passes first, the drop prints on stderr for which ranks it
/// waited, and returns. The operations continue in the background. If a program ends without dropping its groups
/// (because they are in a `static`, or `process::exit` is called), ranks that still need this rank get an error that
/// says that its program ended. [`shutdown`](ProcessGroup::shutdown) does the same as a drop, but waits up to the
/// group's timeout, and returns an error instead of printing it.
///
/// A group belongs to the process that made it. In a forked child every call returns an error that says that the group
/// belongs to another process, and dropping the group does nothing. A child that wants to communicate must make its own
/// group. See [`process`](crate::process).
#[derive(Clone)]
pub struct ProcessGroup(pub(crate) Arc<Group>);

pub(crate) struct Group {
    /// The process that made the group.
    pub(crate) owner: Process,
    /// The error that every call returns in a forked child. The first such call makes it.
    foreign: OnceLock<Error>,
    name: Arc<str>,
    rank: u32,
    size: u32,
    timeout: Duration,
    /// How long the drop of the last handle may wait.
    drop_within: Duration,
    bound: Option<Device>,
    /// The global numbers of this group's ranks: their numbers in the group that the builder made. `None` if the
    /// builder made this group.
    global: Option<Arc<[u32]>>,
    lanes: Vec<Lane>,
    routes: Routes,
    failed: OnceLock<Error>,
    /// This group's part of the store; see [`ProcessGroup::store`].
    store: Arc<dyn Store>,
    /// The whole store, which the sub-groups use with prefixes of their own.
    root: Arc<dyn Store>,
    /// The store that the backends use.
    backend_store: Arc<GroupStore>,
    session: [u8; 16],
    registry: Arc<Registry>,
    map: BackendMap,
    hints: Arc<BTreeMap<String, String>>,
    /// The time after which a long wait of an op is reported; `None` for never.
    warn_after: Option<Duration>,
    next_subgroup: AtomicU64,
    /// The number of shrinks so far, which must be the same on all survivors. `next_subgroup` may differ between
    /// survivors: a rank on which the group failed earlier may have made fewer sub-groups.
    next_shrink: AtomicU64,
}

impl ProcessGroup {
    /// Returns the number of this rank, from 0 to `size() - 1`.
    pub fn rank(&self) -> u32 {
        self.0.rank
    }

    /// Returns the world size: the number of ranks of the group.
    pub fn size(&self) -> u32 {
        self.0.size
    }

    /// Returns the group's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the timeout of ops that do not set their own.
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Returns the global number of this group's `rank`: the number of that rank in the group that the builder made.
    /// `None` if this group has no such rank.
    pub fn global_rank(&self, rank: u32) -> Option<u32> {
        match &self.0.global {
            Some(global) => global.get(rank as usize).copied(),
            None => (rank < self.0.size).then_some(rank),
        }
    }

    /// Returns the part of the store that only this group uses, or the whole store if the group has ranks of another
    /// library.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Returns the name of the backend that serves this dispatch key. For PrivateUse1, this is the backend of the
    /// default slot (see [`vendor`](crate::device::vendor())). If no backend serves the default slot, it is the backend
    /// of the first vendor whose devices are served.
    ///
    /// # Errors
    /// `Unsupported`, with the reason, if no backend serves the dispatch key.
    pub fn backend(&self, key: DispatchKey) -> Result<&'static str> {
        Ok(self.0.lane(key)?.info.backend)
    }

    /// Returns the capabilities of the backend that serves this dispatch key.
    ///
    /// # Errors
    /// The same as for [`backend`](ProcessGroup::backend).
    pub fn capabilities(&self, key: DispatchKey) -> Result<&Capabilities> {
        Ok(&self.0.lane_of(key)?.0.capabilities)
    }

    /// Returns the name and the capabilities of the backend that serves dense buffers of this device.
    ///
    /// # Errors
    /// `Unsupported`, with the reason, if no backend serves the device.
    pub fn backend_of(&self, device: Device) -> Result<(&'static str, &Capabilities)> {
        let (route, lane) = self.0.route(device.key(), device.vendor())?;
        Ok((lane.info.backend, &route.capabilities))
    }

    /// Returns the algorithm that a call with these properties would use on the CPU, if the backend knows it. `bytes`
    /// is the size of the largest buffer of the call.
    pub fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        let lane = self.0.lane(DispatchKey::Cpu).ok()?;
        lane.backend.algorithm(op, bytes, dtype, reduce)
    }

    /// Returns the number of payload bytes that this rank has sent to peers so far in collectives with this dispatch
    /// key, if the backend counts them.
    pub fn bytes_sent(&self, key: DispatchKey) -> Option<u64> {
        self.0.lane(key).ok()?.backend.bytes_sent()
    }

    /// Returns the error by which the group has failed, if it has failed. This includes failures that a backend noticed
    /// while no call was running.
    pub fn failure(&self) -> Option<&Error> {
        if !self.0.is_home() {
            return Some(self.0.foreign());
        }
        if self.0.failed.get().is_none() {
            let noticed = |lane: &Lane| lane.backend.failure().map(|e| lane.info.described(e));
            if let Some(error) = self.0.lanes.iter().find_map(noticed) {
                self.0.fail(&error);
            }
        }
        self.0.failed.get()
    }

    /// Fails the group: all operations in flight and all later calls end with [`ErrorKind::Aborted`], here and on the
    /// peers. `abort` may be called from any thread, and several times; only the first call has an effect. `why` is in
    /// the error of every rank.
    pub fn abort(&self, why: &str) {
        if !self.0.is_home() {
            // Only the parent process is a member of the group.
            return;
        }
        let error = Error::new(ErrorKind::Aborted, why).guilty([self.0.rank]);
        self.0.fail(&self.0.described(error));
    }

    /// Waits until all operations in flight are done and the peers have received everything that this rank sent. Then
    /// this rank leaves the group and tells the peers, so that they do not consider it dead. Later calls on clones
    /// return [`ErrorKind::Shutdown`]; a later `shutdown` does nothing and succeeds. `shutdown` takes at most the
    /// group's timeout.
    ///
    /// # Errors
    /// `Timeout` if the timeout passes; the error names the ranks for which this rank waited. `Mismatch` if another
    /// rank made a different call, and this rank could not notice the difference before because its own call received
    /// nothing. If the group has already failed, `shutdown` returns the error by which it failed. In all cases this
    /// rank has left the group.
    pub fn shutdown(self) -> Result {
        let timeout = self.0.timeout;
        self.shutdown_within(timeout)
    }

    /// Like [`shutdown`](ProcessGroup::shutdown), but takes at most `timeout`.
    ///
    /// # Errors
    /// The same as for [`shutdown`](ProcessGroup::shutdown).
    pub fn shutdown_within(self, timeout: Duration) -> Result {
        self.0.is_here()?;
        let deadline = deadline_after(timeout);
        let mut first = self.0.failed.get().cloned().map_or(Ok(()), Err);
        if let Err(e) = &first
            && *e.kind() == ErrorKind::Shutdown
        {
            return Ok(());
        }
        for lane in &self.0.lanes {
            if let Err(mut e) = lane.shutdown(deadline) {
                lane.info.describe(&mut e);
                first = first.and(Err(e));
            }
        }
        self.0.backend_store.leave(Instant::now() + leave::WRITES_WITHIN);
        let over = Error::new(ErrorKind::Shutdown, "the group was shut down on this rank; make a new one");
        let _ = self.0.failed.set(self.0.described(over));
        first
    }
}

impl Group {
    /// Returns whether this process made the group.
    #[inline]
    pub(crate) fn is_home(&self) -> bool {
        self.owner.is_current()
    }

    /// Returns an error if the current process is a fork of the process that made the group.
    #[inline]
    fn is_here(&self) -> Result {
        if self.is_home() { Ok(()) } else { Err(self.foreign().clone()) }
    }

    #[cold]
    pub(crate) fn foreign(&self) -> &Error {
        self.foreign.get_or_init(|| self.described(self.owner.foreign("the group")))
    }

    #[inline]
    fn route(&self, key: DispatchKey, vendor: u8) -> Result<(&Route, &Lane)> {
        let route = self.routes.get(key, vendor)?;
        Ok((route, Routes::lane(route, &self.lanes)))
    }

    fn lane_of(&self, key: DispatchKey) -> Result<(&Route, &Lane)> {
        let vendor = if key == DispatchKey::PrivateUse1 { self.routes.some_vendor() } else { 0 };
        self.route(key, vendor)
    }

    fn lane(&self, key: DispatchKey) -> Result<&Lane> {
        Ok(self.lane_of(key)?.1)
    }

    /// Returns the backend that has the job of this frame.
    pub(crate) fn backend_of(&self, frame: &Frame) -> Option<&Arc<dyn Backend>> {
        let info = frame.lane?.as_ptr().cast_const();
        self.lanes.iter().find(|lane| std::ptr::eq(Arc::as_ptr(&lane.info), info)).map(|lane| &lane.backend)
    }

    /// Adds group and rank to an error of a call that has no lane yet.
    fn described(&self, error: Error) -> Error {
        let (group, global) = (self.name.clone(), self.global.clone());
        Origin { group, rank: self.rank, backend: "", global }.described(error)
    }

    /// Returns the error of a call on a group that has already failed: the error that failed the group. If its cause is
    /// the death of ranks, the error also names ranks that were found dead later.
    #[cold]
    fn again(&self, cause: &Error) -> Error {
        let dead = |e: &Error| matches!(e.kind(), ErrorKind::PeerDead { .. });
        if !dead(cause) {
            return cause.clone();
        }
        let known = self.lanes.iter().filter_map(|lane| lane.backend.failure()).filter(dead);
        let mut all = cause.report().guilty.clone();
        all.extend(known.flat_map(|e| e.report().guilty.clone()));
        let mut error = cause.clone().guilty(all);
        error.report_mut().guilty_global.clear();
        self.described(error)
    }

    /// Fails the group, if it has not failed before. `Job::complete` must not call this function: a backend may hold
    /// locks while it completes a job, and this function calls the backend's `abort`. The thread that takes the error
    /// calls it instead.
    pub(crate) fn fail(&self, error: &Error) {
        if !self.is_home() {
            return;
        }
        if self.failed.set(error.clone()).is_ok() {
            // The lanes must be aborted even if the subscriber panics.
            contain("a tracing subscriber", || {
                tracing::error!(target: "c10d", group = %self.name, rank = self.rank, "{error:?}");
            });
            for lane in &self.lanes {
                contain("a backend's abort", || lane.backend.abort(error));
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_home() {
            // The drops of backends and stores send messages to peers, take locks and wait for threads. In a forked
            // child the peers belong to the parent, and the threads do not exist, so a lock that such a thread held is
            // never released.
            let stores = (self.store.clone(), self.root.clone(), self.backend_store.clone());
            std::mem::forget((std::mem::take(&mut self.lanes), stores));
            return;
        }
        self.leave();
    }
}

impl std::fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProcessGroup({:?}, rank {} of {})", self.0.name, self.0.rank, self.0.size)
    }
}
