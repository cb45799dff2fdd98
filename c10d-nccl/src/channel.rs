//! A communicator with its stream and its unfinished tasks (the descriptions of jobs).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{DType, Error, Phase, Result, Store};
use crossbeam_channel::Sender;

use crate::bootstrap::Ids;
use crate::check::Checks;
use crate::communicator::{Child, Comms, Communicator};
use crate::cuda::{CudaApi, Mark, WorkStream};
use crate::dialect::Dialect;
use crate::jobs::JobTable;
use crate::nccl::{NcclApi, RedOp, UniqueId};
use crate::ops::Plan;
use crate::scratch::Scratch;
use crate::task::Task;

/// The interval at which a communicator with unfinished work is checked for errors.
const ASK: Duration = Duration::from_millis(20);
/// The maximum pause between two checks whether a communicator's ids are in the store.
const LOOK: Duration = Duration::from_millis(20);

/// The resources that all channels of a backend share.
pub(crate) struct Resources {
    pub(crate) jobs: Arc<JobTable>,
    /// The comparison of the ranks' calls, if it is enabled.
    pub(crate) checks: Option<Arc<Checks>>,
    pub(crate) comms: Arc<Comms>,
    pub(crate) nccl: Arc<dyn NcclApi>,
    pub(crate) cuda: Arc<dyn CudaApi>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) device: u16,
    pub(crate) dialect: Dialect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Participants {
    All,
    /// The ranks of the communicator for messages from the first rank to the second. In the dialect `TorchLegacy`, the
    /// communicator serves both directions.
    Two {
        first: u32,
        second: u32,
    },
}

/// Work for a channel. The channel runs its work in order of arrival.
pub(crate) enum ChannelWork {
    Run(Task),
    /// Derives another communicator from this one. Without an [`Heir`], this rank is not a member of the new
    /// communicator.
    Derive(Derive, Option<Heir>),
}

/// How a communicator is derived from another one.
pub(crate) enum Derive {
    Split {
        /// The lowest rank of this rank's part; `None` if this rank is in no part.
        color: Option<u32>,
        /// This rank's number in its part.
        key: u32,
    },
    /// These ranks are left out.
    Shrink { without: Vec<i32> },
}

/// The receiver of a derived communicator.
pub(crate) struct Heir {
    /// The list to which the communicator is added.
    pub(crate) comms: Arc<Comms>,
    pub(crate) answer: Sender<Communicator>,
}

enum ChannelState {
    /// This rank does not have all ids yet, since other ranks make some of them.
    Seeking {
        ids: Ids,
        again: Instant,
        pause: Duration,
    },
    Connecting,
    Deriving {
        child: Child,
        heir: Option<Heir>,
    },
    Ready,
    /// NCCL has accepted the task's calls, but has not put all of them on the stream yet.
    Issuing {
        task: Task,
        made: Option<RedOp>,
    },
}

struct Flight {
    id: u64,
    end: Mark,
}

pub(crate) struct Channel {
    rank: u32,
    size: u32,
    line: WorkStream,
    comm: Option<Communicator>,
    state: ChannelState,
    /// The work that has not begun. The mark of a task is after the work that was on the caller's stream when the task
    /// was pushed.
    queue: VecDeque<(ChannelWork, Option<Mark>)>,
    flights: VecDeque<Flight>,
    asked: Instant,
    scratch: Scratch,
}

impl Channel {
    pub(crate) fn of_all(resources: &Resources, member: (u32, u32), ids: &[UniqueId]) -> Result<Channel> {
        let comm = resources.jobs.calling("ncclCommInitRankConfig", || {
            Communicator::begin(&resources.nccl, &resources.comms, member, ids)
        })?;
        Self::new(resources, member, Some(comm), ChannelState::Connecting)
    }

    /// Makes the channel of a communicator that may still be connecting.
    pub(crate) fn over(resources: &Resources, member: (u32, u32), comm: Communicator) -> Result<Channel> {
        Self::new(resources, member, Some(comm), ChannelState::Connecting)
    }

    /// Makes the channel of these ranks, which include `rank`. The ranks still have to exchange ids through the store.
    pub(crate) fn meeting(
        resources: &Resources,
        between: Participants,
        (rank, size): (u32, u32),
        deadline: Instant,
    ) -> Result<Channel> {
        let (member, ids) = match between {
            Participants::All => ((rank, size), Ids::of_all(&*resources.nccl, &resources.dialect, size)),
            Participants::Two { first, second } => {
                ((u32::from(rank != first), 2), Ids::of_pair(&resources.dialect, (first, second)))
            }
        };
        let offer = || ids.offer(&*resources.nccl, &*resources.store, member.0, deadline);
        if let Some(made) = resources.jobs.calling("ncclGetUniqueId, or the store", offer)? {
            return Self::of_all(resources, member, &made);
        }
        let state = ChannelState::Seeking { ids, again: Instant::now(), pause: Duration::from_micros(200) };
        Self::new(resources, member, None, state)
    }

    fn new(
        resources: &Resources,
        (rank, size): (u32, u32),
        comm: Option<Communicator>,
        state: ChannelState,
    ) -> Result<Channel> {
        let line =
            resources.jobs.calling("cuStreamCreate", || WorkStream::new(resources.cuda.clone(), resources.device))?;
        let (queue, flights) = (VecDeque::new(), VecDeque::new());
        let scratch = Scratch::new(resources.cuda.clone(), resources.device);
        Ok(Channel { rank, size, line, comm, state, queue, flights, asked: Instant::now(), scratch })
    }

    /// Adds an item. Marks the caller's stream at once: a task must not wait for work that the caller enqueues later.
    pub(crate) fn push(&mut self, resources: &Resources, item: ChannelWork) -> Result {
        let mut before = None;
        if let ChannelWork::Run(task) = &item {
            if let Err(e) = check(resources, &self.line, task) {
                resources.jobs.refuse(task.id, e);
                return Ok(());
            }
            resources.checks.iter().for_each(|checks| checks.issued(task));
            before = Some(resources.jobs.calling("cuEventRecord", || self.line.before(task.stream))?);
        }
        self.queue.push_back((item, before));
        Ok(())
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, ChannelState::Ready)
    }

    /// Whether there is no work.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_ready() && self.queue.is_empty() && self.flights.is_empty()
    }

    /// Makes the progress that is possible now. Returns whether there was any.
    pub(crate) fn step(&mut self, resources: &Resources) -> Result<bool> {
        let ended = self.collect(resources)?;
        let moved = match &self.state {
            ChannelState::Seeking { .. } => self.seek(resources)?,
            ChannelState::Connecting => self.ask(resources)? && self.enter(ChannelState::Ready),
            ChannelState::Deriving { .. } => self.ask(resources)? && self.derived()?,
            ChannelState::Issuing { .. } => self.ask(resources)? && self.issued(resources)?,
            // NCCL requires that no call is running on a communicator from which another is derived.
            ChannelState::Ready
                if !self.flights.is_empty() && matches!(self.queue.front(), Some((ChannelWork::Derive(..), _))) =>
            {
                false
            }
            ChannelState::Ready => match self.queue.pop_front() {
                Some((ChannelWork::Run(task), before)) => self.issue(resources, task, before)?,
                Some((ChannelWork::Derive(how, heir), _)) => self.derive(resources, &how, heir)?,
                None => false,
            },
        };
        if !self.flights.is_empty() && self.asked.elapsed() > ASK {
            self.ask(resources)?;
        }
        Ok(ended || moved)
    }

    fn enter(&mut self, state: ChannelState) -> bool {
        self.state = state;
        true
    }

    /// Ends the jobs whose work the device has finished.
    fn collect(&mut self, resources: &Resources) -> Result<bool> {
        let mut any = false;
        while let Some(flight) = self.flights.front() {
            if !resources.jobs.calling("cuEventQuery", || self.line.passed(&flight.end))? {
                break;
            }
            if let Some(Flight { id, end }) = self.flights.pop_front() {
                self.line.forget(end);
                resources.jobs.finish(id, Ok(()));
                any = true;
            }
        }
        Ok(any)
    }

    /// Asks NCCL whether the communicator has finished its calls.
    fn ask(&mut self, resources: &Resources) -> Result<bool> {
        self.asked = Instant::now();
        match &self.comm {
            Some(comm) => resources.jobs.calling("ncclCommGetAsyncError", || comm.ready()),
            None => Ok(true),
        }
    }

    fn seek(&mut self, resources: &Resources) -> Result<bool> {
        let ChannelState::Seeking { ids, again, pause } = &mut self.state else { return Ok(false) };
        let now = Instant::now();
        if now < *again {
            return Ok(false);
        }
        let Some(found) = ids.look(&*resources.store, now + Duration::from_secs(1))? else {
            *pause = (*pause * 2).min(LOOK);
            *again = now + *pause;
            return Ok(false);
        };
        let begin = || Communicator::begin(&resources.nccl, &resources.comms, (self.rank, self.size), &found);
        self.comm = Some(resources.jobs.calling("ncclCommInitRankConfig", begin)?);
        Ok(self.enter(ChannelState::Connecting))
    }

    /// Begins to derive another communicator from the channel's communicator. The channel's communicator cannot be used
    /// until NCCL has derived the new communicator.
    fn derive(&mut self, resources: &Resources, how: &Derive, heir: Option<Heir>) -> Result<bool> {
        let Some(comm) = &self.comm else { return Ok(false) };
        let child = match how {
            Derive::Split { color, key } => resources.jobs.calling("ncclCommSplit", || comm.split(*color, *key)),
            Derive::Shrink { without } => resources.jobs.calling("ncclCommShrink", || comm.shrink(without)),
        }?;
        Ok(self.enter(ChannelState::Deriving { child, heir }))
    }

    /// Called when the channel's communicator can be used again. Sends the derived communicator to its receiver.
    fn derived(&mut self) -> Result<bool> {
        let ChannelState::Deriving { child, heir } = std::mem::replace(&mut self.state, ChannelState::Ready) else {
            return Ok(false);
        };
        let made = child.take();
        if let (Some(comm), Some(heir)) = (&self.comm, heir) {
            // The receiver may have stopped waiting.
            let _ = heir.answer.send(comm.made(made, &heir.comms)?);
        }
        Ok(true)
    }

    /// Issues a task's calls. They run after the marked work on the caller's stream.
    fn issue(&mut self, resources: &Resources, task: Task, before: Option<Mark>) -> Result<bool> {
        let Some(comm) = &self.comm else { return Ok(false) };
        if !resources.jobs.issue(task.id) {
            return Ok(true);
        }
        if let Some(before) = before {
            resources.jobs.calling("cuStreamWaitEvent", || self.line.follow(before))?;
        }
        let dtype = task.dtype.unwrap_or(DType::F32);
        let mut issuer = comm.issuer(&*resources.cuda, resources.device, self.line.stream(), dtype);
        let (rank, size) = (self.rank as usize, self.size as usize);
        let (dialect, scratch) = (&resources.dialect, &mut self.scratch);
        let mut plan = Plan { task: &task, rank, size, issuer: &mut issuer, made: None, dialect, scratch };
        let what = task.op.name();
        resources.jobs.calling(what, || plan.issue()).map_err(|e| e.phase(Phase::Announce))?;
        let made = plan.made;
        let pending = issuer.pending();
        self.state = ChannelState::Issuing { task, made };
        if pending { Ok(true) } else { self.issued(resources) }
    }

    /// Called when all calls of the task are on the stream. Marks their end.
    fn issued(&mut self, resources: &Resources) -> Result<bool> {
        let ChannelState::Issuing { task, made } = std::mem::replace(&mut self.state, ChannelState::Ready) else {
            return Ok(false);
        };
        if let (Some(comm), Some(op)) = (&self.comm, made) {
            resources.jobs.calling("ncclRedOpDestroy", || {
                comm.destroy_op(op);
                Ok(())
            })?;
        }
        let end = resources.jobs.calling("cuEventRecord", || self.line.mark())?;
        self.flights.push_back(Flight { id: task.id, end });
        Ok(true)
    }

    /// Waits until NCCL has flushed the communicator, and frees it.
    pub(crate) fn close(mut self, resources: &Resources, deadline: Instant) -> Result {
        let Some(comm) = self.comm.take() else { return Ok(()) };
        resources.jobs.calling("ncclCommFinalize", || comm.finalize())?;
        while !resources.jobs.calling("ncclCommGetAsyncError", || comm.ready())? {
            if Instant::now() >= deadline {
                return Err(Error::new(c10d_core::ErrorKind::Timeout, "NCCL did not flush the communicator in time"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        resources.jobs.calling("ncclCommDestroy", || comm.destroy())?;
        self.scratch.close();
        resources.jobs.calling("cuStreamDestroy", || {
            self.line.close();
            Ok(())
        })
    }
}

/// Checks a task's tensors and stream by calls of CUDA.
fn check(resources: &Resources, line: &WorkStream, task: &Task) -> Result {
    resources.jobs.calling("cuStreamIsCapturing", || line.check(task.stream))?;
    for part in task.parts().filter(|p| p.count > 0) {
        let found = resources.jobs.calling("cuPointerGetAttribute", || resources.cuda.device_of(part.at))?;
        if found != Some(resources.device) {
            let on = found.map_or_else(|| "in no device's memory".to_owned(), |d| format!("on cuda:{d}"));
            let what =
                format!("a tensor's device is given as cuda:{}, but it is {on} ({:#x})", resources.device, part.at);
            return Err(Error::invalid(what));
        }
    }
    Ok(())
}
