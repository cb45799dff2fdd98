//! A communicator with its stream, and the tasks on their way through it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{DType, Error, Phase, Result, Store};
use crossbeam_channel::Sender;

use crate::board::Board;
use crate::boot::Ids;
use crate::check::Checks;
use crate::communicator::{Child, Comms, Communicator};
use crate::cuda::{CudaApi, Line, Mark};
use crate::dialect::Dialect;
use crate::nccl::{NcclApi, RedOp, UniqueId};
use crate::ops::Plan;
use crate::scratch::Scratch;
use crate::task::Task;

/// How often a communicator with work on its way is asked for errors.
const ASK: Duration = Duration::from_millis(20);
/// The longest pause between two looks for a pair's id.
const LOOK: Duration = Duration::from_millis(20);

/// What all channels of a backend use.
pub(crate) struct Means {
    pub(crate) board: Arc<Board>,
    /// Where the ranks' calls are compared, if they are.
    pub(crate) checks: Option<Arc<Checks>>,
    pub(crate) comms: Arc<Comms>,
    pub(crate) nccl: Arc<dyn NcclApi>,
    pub(crate) cuda: Arc<dyn CudaApi>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) device: u16,
    pub(crate) dialect: Dialect,
}

/// The ranks of a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Between {
    All,
    /// For messages: from the first to the second, so that they neither stop collectives nor those of the other
    /// direction. In a dialect of PyTorch's, for both directions.
    Two {
        first: u32,
        second: u32,
    },
}

/// What is done in the order in which it came.
pub(crate) enum Item {
    Run(Task),
    /// Makes another communicator of this one; `None`: this rank has no part in it.
    Derive(Derive, Option<Heir>),
}

/// How another communicator is made of one.
pub(crate) enum Derive {
    /// By dividing the ranks.
    Split {
        /// The lowest rank of this rank's part; `None`: it is in no part.
        color: Option<u32>,
        /// This rank's number in it.
        key: u32,
    },
    /// By leaving these ranks behind.
    Shrink { without: Vec<i32> },
}

/// Who gets a communicator that is made.
pub(crate) struct Heir {
    /// Where it is entered.
    pub(crate) comms: Arc<Comms>,
    pub(crate) answer: Sender<Communicator>,
}

enum State {
    /// Looks for ids that others make.
    Seeking {
        ids: Ids,
        again: Instant,
        pause: Duration,
    },
    Connecting,
    /// Another communicator is being made of this one.
    Deriving {
        child: Child,
        heir: Option<Heir>,
    },
    Ready,
    /// Calls were accepted that are not through yet.
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
    line: Line,
    comm: Option<Communicator>,
    state: State,
    /// Each task with what comes before it on the caller's stream.
    queue: VecDeque<(Item, Option<Mark>)>,
    flights: VecDeque<Flight>,
    asked: Instant,
    scratch: Scratch,
}

impl Channel {
    /// The channel of all ranks.
    pub(crate) fn of_all(means: &Means, place: (u32, u32), ids: &[UniqueId]) -> Result<Channel> {
        let comm = means
            .board
            .calling("ncclCommInitRankConfig", || Communicator::begin(&means.nccl, &means.comms, place, ids))?;
        Self::new(means, place, Some(comm), State::Connecting)
    }

    /// The channel of a communicator that is being made.
    pub(crate) fn over(means: &Means, place: (u32, u32), comm: Communicator) -> Result<Channel> {
        Self::new(means, place, Some(comm), State::Connecting)
    }

    /// The channel of these ranks, of which `rank` is one, that have yet to meet through the store.
    pub(crate) fn meeting(
        means: &Means,
        between: Between,
        (rank, size): (u32, u32),
        deadline: Instant,
    ) -> Result<Channel> {
        let (place, ids) = match between {
            Between::All => ((rank, size), Ids::of_all(&*means.nccl, &means.dialect, size)),
            Between::Two { first, second } => {
                ((u32::from(rank != first), 2), Ids::of_pair(&means.dialect, (first, second)))
            }
        };
        let offer = || ids.offer(&*means.nccl, &*means.store, place.0, deadline);
        if let Some(made) = means.board.calling("ncclGetUniqueId, or the store", offer)? {
            return Self::of_all(means, place, &made);
        }
        let state = State::Seeking { ids, again: Instant::now(), pause: Duration::from_micros(200) };
        Self::new(means, place, None, state)
    }

    fn new(means: &Means, (rank, size): (u32, u32), comm: Option<Communicator>, state: State) -> Result<Channel> {
        let line = means.board.calling("cuStreamCreate", || Line::new(means.cuda.clone(), means.device))?;
        let (queue, flights) = (VecDeque::new(), VecDeque::new());
        let scratch = Scratch::new(means.cuda.clone(), means.device);
        Ok(Channel { rank, size, line, comm, state, queue, flights, asked: Instant::now(), scratch })
    }

    /// Takes an item in. The caller's stream is marked here and now: when the task is issued, it may have been told to wait
    /// for another that came later.
    pub(crate) fn push(&mut self, means: &Means, item: Item) -> Result {
        let mut before = None;
        if let Item::Run(task) = &item {
            if let Err(e) = check(means, &self.line, task) {
                means.board.refuse(task.id, e);
                return Ok(());
            }
            means.checks.iter().for_each(|checks| checks.issued(task));
            before = Some(means.board.calling("cuEventRecord", || self.line.before(task.stream))?);
        }
        self.queue.push_back((item, before));
        Ok(())
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Whether there is nothing to look after.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_ready() && self.queue.is_empty() && self.flights.is_empty()
    }

    /// Does what can be done now; whether that was anything.
    pub(crate) fn step(&mut self, means: &Means) -> Result<bool> {
        let ended = self.collect(means)?;
        let moved = match &self.state {
            State::Seeking { .. } => self.seek(means)?,
            State::Connecting => self.ask(means)? && self.enter(State::Ready),
            State::Deriving { .. } => self.ask(means)? && self.derived()?,
            State::Issuing { .. } => self.ask(means)? && self.issued(means)?,
            // The library wants nothing in flight.
            State::Ready if !self.flights.is_empty() && matches!(self.queue.front(), Some((Item::Derive(..), _))) => {
                false
            }
            State::Ready => match self.queue.pop_front() {
                Some((Item::Run(task), before)) => self.issue(means, task, before)?,
                Some((Item::Derive(how, heir), _)) => self.derive(means, &how, heir)?,
                None => false,
            },
        };
        if !self.flights.is_empty() && self.asked.elapsed() > ASK {
            self.ask(means)?;
        }
        Ok(ended || moved)
    }

    fn enter(&mut self, state: State) -> bool {
        self.state = state;
        true
    }

    /// Ends the jobs whose work the device has passed.
    fn collect(&mut self, means: &Means) -> Result<bool> {
        let mut any = false;
        while let Some(flight) = self.flights.front() {
            if !means.board.calling("cuEventQuery", || self.line.passed(&flight.end))? {
                break;
            }
            if let Some(Flight { id, end }) = self.flights.pop_front() {
                self.line.forget(end);
                means.board.finish(id, Ok(()));
                any = true;
            }
        }
        Ok(any)
    }

    /// Asks the communicator whether it is through with what it was told.
    fn ask(&mut self, means: &Means) -> Result<bool> {
        self.asked = Instant::now();
        match &self.comm {
            Some(comm) => means.board.calling("ncclCommGetAsyncError", || comm.ready()),
            None => Ok(true),
        }
    }

    fn seek(&mut self, means: &Means) -> Result<bool> {
        let State::Seeking { ids, again, pause } = &mut self.state else { return Ok(false) };
        let now = Instant::now();
        if now < *again {
            return Ok(false);
        }
        let Some(found) = ids.look(&*means.store, now + Duration::from_secs(1))? else {
            *pause = (*pause * 2).min(LOOK);
            *again = now + *pause;
            return Ok(false);
        };
        let begin = || Communicator::begin(&means.nccl, &means.comms, (self.rank, self.size), &found);
        self.comm = Some(means.board.calling("ncclCommInitRankConfig", begin)?);
        Ok(self.enter(State::Connecting))
    }

    /// Begins to make another communicator of this one, which is busy with that for a while.
    fn derive(&mut self, means: &Means, how: &Derive, heir: Option<Heir>) -> Result<bool> {
        let Some(comm) = &self.comm else { return Ok(false) };
        let child = match how {
            Derive::Split { color, key } => means.board.calling("ncclCommSplit", || comm.split(*color, *key)),
            Derive::Shrink { without } => means.board.calling("ncclCommShrink", || comm.shrink(without)),
        }?;
        Ok(self.enter(State::Deriving { child, heir }))
    }

    /// The communicator is ready again: gives away what was made of it.
    fn derived(&mut self) -> Result<bool> {
        let State::Deriving { child, heir } = std::mem::replace(&mut self.state, State::Ready) else {
            return Ok(false);
        };
        let made = child.take();
        if let (Some(comm), Some(heir)) = (&self.comm, heir) {
            // Whoever asked may have given up.
            let _ = heir.answer.send(comm.made(made, &heir.comms)?);
        }
        Ok(true)
    }

    /// Gives a task's calls to the library, behind what the caller's stream has to do before.
    fn issue(&mut self, means: &Means, task: Task, before: Option<Mark>) -> Result<bool> {
        let Some(comm) = &self.comm else { return Ok(false) };
        if !means.board.issue(task.id) {
            return Ok(true);
        }
        if let Some(before) = before {
            means.board.calling("cuStreamWaitEvent", || self.line.follow(before))?;
        }
        let dtype = task.dtype.unwrap_or(DType::F32);
        let mut issuer = comm.issuer(&*means.cuda, means.device, self.line.stream(), dtype);
        let (rank, size) = (self.rank as usize, self.size as usize);
        let (dialect, scratch) = (&means.dialect, &mut self.scratch);
        let mut plan = Plan { task: &task, rank, size, issuer: &mut issuer, made: None, dialect, scratch };
        let what = task.op.name();
        means.board.calling(what, || plan.issue()).map_err(|e| e.phase(Phase::Announce))?;
        let made = plan.made;
        let pending = issuer.pending();
        self.state = State::Issuing { task, made };
        if pending { Ok(true) } else { self.issued(means) }
    }

    /// All calls of the task are on the stream: marks its end.
    fn issued(&mut self, means: &Means) -> Result<bool> {
        let State::Issuing { task, made } = std::mem::replace(&mut self.state, State::Ready) else { return Ok(false) };
        if let (Some(comm), Some(op)) = (&self.comm, made) {
            means.board.calling("ncclRedOpDestroy", || {
                comm.destroy_op(op);
                Ok(())
            })?;
        }
        let end = means.board.calling("cuEventRecord", || self.line.mark())?;
        self.flights.push_back(Flight { id: task.id, end });
        Ok(true)
    }

    /// Flushes and frees the communicator.
    pub(crate) fn close(mut self, means: &Means, deadline: Instant) -> Result {
        let Some(comm) = self.comm.take() else { return Ok(()) };
        means.board.calling("ncclCommFinalize", || comm.finalize())?;
        while !means.board.calling("ncclCommGetAsyncError", || comm.ready())? {
            if Instant::now() >= deadline {
                return Err(Error::new(c10d_core::ErrorKind::Timeout, "the communicator did not flush in time"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        means.board.calling("ncclCommDestroy", || comm.destroy())?;
        self.scratch.close();
        means.board.calling("cuStreamDestroy", || {
            self.line.close();
            Ok(())
        })
    }
}

/// What only CUDA can say of a task's tensors and stream.
fn check(means: &Means, line: &Line, task: &Task) -> Result {
    means.board.calling("cuStreamIsCapturing", || line.check(task.stream))?;
    for part in task.parts().filter(|p| p.count > 0) {
        let found = means.board.calling("cuPointerGetAttribute", || means.cuda.device_of(part.at))?;
        if found != Some(means.device) {
            let on = found.map_or_else(|| "in no device's memory".to_owned(), |d| format!("on cuda:{d}"));
            let what = format!("a tensor that is said to be on cuda:{} is {on} ({:#x})", means.device, part.at);
            return Err(Error::invalid(what));
        }
    }
    Ok(())
}
