//! Starts a backend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{GroupInit, Reports, SideChannel};
use c10d_core::panics::caught;
use c10d_core::process::spawn;
use c10d_core::{ENDED_WITHOUT_LEAVING, Error, ErrorKind, Phase, Result, Store};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::bootstrap::{self, Ids};
use crate::channel::Resources;
use crate::check::{Checks, Wake};
use crate::communicator::Comms;
use crate::cuda::CudaApi;
use crate::deadline_watch::DeadlineWatch;
use crate::dialect::Dialect;
use crate::engine::{Engine, Order, Origin};
use crate::jobs::JobTable;
use crate::nccl::NcclApi;

/// The hint that can disable the comparison of calls.
const CHECK: &str = "nccl.check";
/// While a thread waits for NCCL, it checks at this interval whether another rank has reported that it cannot make the
/// group.
const SLICE: Duration = Duration::from_millis(100);

/// The data that a backend and its threads share.
pub(crate) struct Running {
    pub(crate) jobs: Arc<JobTable>,
    pub(crate) orders: Sender<Order>,
    pub(crate) nccl: Arc<dyn NcclApi>,
    pub(crate) cuda: Arc<dyn CudaApi>,
    pub(crate) device: u16,
    pub(crate) size: u32,
    /// The side channel: the channel besides NCCL through which the ranks watch each other and send errors. `None` if
    /// there is one rank only, or if the group has ranks of PyTorch.
    pub(crate) side: Option<SideChannel>,
    /// The comparison of the ranks' calls. `None` if it is disabled, or if there is no side channel over a CPU backend.
    pub(crate) checks: Option<Arc<Checks>>,
    pub(crate) dialect: Dialect,
}

pub(crate) struct StartOptions {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) rank: u32,
    pub(crate) size: u32,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
    pub(crate) device: u16,
    pub(crate) side: Option<SideChannel>,
    /// Whether the ranks' calls are compared if the side channel uses a CPU backend.
    pub(crate) checks: bool,
    pub(crate) dialect: Dialect,
    pub(crate) reports: Arc<Reports>,
}

/// The reason why no message was received.
pub(crate) enum Silence {
    /// The deadline has passed.
    Late,
    /// The sender was dropped.
    Gone,
    /// Another rank reported that it cannot make the group.
    Reported(Error),
}

/// Waits for a message until the deadline. Returns earlier if another rank reports that it cannot make the group.
pub(crate) fn await_from<T>(receiver: &Receiver<T>, reports: &Reports, deadline: Instant) -> Result<T, Silence> {
    loop {
        let slice = deadline.min(Instant::now() + SLICE);
        match receiver.recv_deadline(slice) {
            Ok(word) => return Ok(word),
            Err(RecvTimeoutError::Disconnected) => return Err(Silence::Gone),
            Err(RecvTimeoutError::Timeout) if slice == deadline => return Err(Silence::Late),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(error) = reports.failure() {
            return Err(Silence::Reported(error));
        }
    }
}

impl StartOptions {
    pub(crate) fn of(init: &GroupInit, device: u16) -> Result<StartOptions> {
        let (rank, size, timeout, deadline) = (init.rank, init.size, init.timeout, init.deadline);
        let dialect = Dialect::of(init)?;
        // Ranks of PyTorch would not take part in a side channel.
        let side = if dialect.is_native() { SideChannel::connect(init, init.cpu, "nccl")? } else { None };
        let checks = match init.hint(CHECK) {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => return Err(Error::invalid(format!("{CHECK} is {other:?}; it must be on or off"))),
        };
        let (store, reports) = (dialect.store(init), init.reports());
        Ok(StartOptions { store, rank, size, timeout, deadline, device, side, checks, dialect, reports })
    }
}

/// Connects the ranks with a new communicator.
pub(crate) fn connect(nccl: Arc<dyn NcclApi>, cuda: Arc<dyn CudaApi>, facts: StartOptions) -> Result<Running> {
    let origin = match facts.dialect.is_lazy() {
        true => Origin::Later,
        false => {
            let ids = Ids::of_all(&*nccl, &facts.dialect, facts.size);
            Origin::Ids(ids.exchange(&*nccl, &*facts.store, facts.rank, facts.deadline)?)
        }
    };
    let comms = Arc::new(Comms::new(nccl.clone(), cuda.clone(), facts.device));
    run(nccl, cuda, comms, facts, origin)
}

/// Starts the threads, and waits until the communicator is ready.
pub(crate) fn run(
    nccl: Arc<dyn NcclApi>,
    cuda: Arc<dyn CudaApi>,
    comms: Arc<Comms>,
    facts: StartOptions,
    origin: Origin,
) -> Result<Running> {
    let StartOptions { store, rank, size, timeout, deadline, device, side, checks, dialect, reports } = facts;
    let compared = side.as_ref().and_then(SideChannel::messages).filter(|_| checks);
    let jobs = Arc::new(JobTable::new(size > 1 && compared.is_none()));
    let (orders, receiver) = unbounded();
    let look = orders.clone();
    let wake: Wake = Arc::new(move || drop(look.send(Order::Look)));
    let checks = compared.map(|side| Checks::start(side, &jobs, wake)).transpose()?.map(Arc::new);
    let (ready, is_ready) = bounded(1);
    let resources = Resources {
        jobs: jobs.clone(),
        checks: checks.clone(),
        comms: comms.clone(),
        nccl: nccl.clone(),
        cuda: cuda.clone(),
        store: store.clone(),
        device,
        dialect: dialect.clone(),
    };
    let watch = DeadlineWatch { jobs: jobs.clone(), comms, cuda: cuda.clone(), device, side: side.clone() };
    let engine = Engine { resources, rank, size, timeout, orders: receiver, ready: Some(ready) };
    spawn("c10d-nccl-watch", move || watch.run())?;
    spawn("c10d-nccl", move || engine.run(origin)).inspect_err(|_| jobs.over())?;
    let running = Running { jobs, orders, nccl, cuda, device, size, side, checks, dialect };
    running.watch()?;
    match await_from(&is_ready, &reports, deadline) {
        Ok(()) => Ok(running),
        Err(Silence::Reported(error)) => {
            running.fail(error.clone());
            Err(error.phase(Phase::Connect))
        }
        Err(Silence::Late) => {
            let what = format!("the NCCL communicator was not ready in time{}", running.jobs.inside());
            // Only ranks of this crate record that they are connecting.
            let absent = if running.dialect.is_native() { bootstrap::absent(&*store, size) } else { Vec::new() };
            let error = Error::new(ErrorKind::Timeout, what).guilty(absent).phase(Phase::Connect);
            running.fail(error.clone());
            Err(error)
        }
        Err(Silence::Gone) => {
            let failure = running.jobs.failure();
            let error =
                failure.unwrap_or_else(|| Error::new(ErrorKind::Internal, "the thread that calls NCCL ended early"));
            Err(error.phase(Phase::Connect))
        }
    }
}

impl Running {
    /// Starts a thread that fails the group when a peer dies or fails. If the peer's program ended without leaving the
    /// group, the jobs that are running get a short time to end before the group fails.
    fn watch(&self) -> Result {
        let Some(side) = self.side.clone() else { return Ok(()) };
        let (jobs, orders) = (self.jobs.clone(), self.orders.clone());
        spawn("c10d-nccl-side", move || {
            let cause = caught(|| side.watch()).unwrap_or_else(|words| {
                Some(Error::new(ErrorKind::Internal, format!("the thread that watches the peers panicked: {words}")))
            });
            if let Some(cause) = cause {
                match cause.kind() {
                    ErrorKind::PeerDead { how } if how.starts_with(ENDED_WITHOUT_LEAVING) => jobs.peer_ended(cause),
                    _ => jobs.fail(cause),
                }
                let _ = orders.send(Order::Look);
            }
        })
    }

    /// Leaves the group. If the group has failed, sends the error to the peers. Otherwise sends a goodbye, after all
    /// fingerprints were sent or the deadline has passed.
    pub(crate) fn leave(&self, deadline: Instant) {
        let Some(side) = &self.side else { return };
        match (self.jobs.failure(), &self.checks) {
            (Some(cause), _) => return side.abort_and_leave(&cause),
            (None, Some(checks)) => checks.all_sent(deadline),
            (None, None) => {}
        }
        side.leave();
    }

    pub(crate) fn fail(&self, cause: Error) {
        self.jobs.fail(cause.clone());
        self.side.iter().for_each(|side| side.abort(&cause));
        // If the engine has ended, it needs no notice.
        let _ = self.orders.send(Order::Look);
    }
}
