//! The backend accepts jobs and runs each of them, on the caller's thread if possible.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use c10d_core::backend::{
    AlgorithmInfo, Backend, Caller, Capabilities, GroupInit, Job, JobId, SideChannel, WorkerQueue,
};
use c10d_core::panics::caught;
use c10d_core::process::spawn;
use c10d_core::sync::Mutex;
use c10d_core::{DType, Error, ErrorKind, OpKind, Outcome, Phase, ReduceOp, Result};

use crate::exchange::Exchange;
use crate::health::Health;
use crate::ledger::{Entered, Ledger};
use crate::messages::Messages;
use crate::mpi::{Comm, Kind, Mpi};
use crate::ops::{Collectives, algorithm};
use crate::task::{Gate, Task};
use crate::world::{Member, free, join};

/// The hint that says what the side channel uses: gloo-like, or the store.
pub(crate) const SIDE: &str = "mpi.side";
/// The hint that selects the threads that call MPI.
pub(crate) const THREAD: &str = "mpi.thread";
/// If a separate thread exchanges the goodbyes, the leaving thread waits for it until their time limit plus this.
const SLACK: Duration = Duration::from_millis(100);
/// The time limit of two waits of a rank that leaves: for the goodbyes of its peers, and until its communicator is
/// freed. A peer's goodbye shows that the peer has received everything that this rank sent to it.
const FAREWELL: Duration = Duration::from_millis(500);

/// One rank of one group.
pub(crate) struct MpiBackend(Arc<Rank>);

/// The state that the threads of one rank share.
struct Rank {
    size: u32,
    health: Arc<Health>,
    collectives: Mutex<Collectives>,
    /// The collectives that the backend's own thread runs.
    ledger: Arc<Ledger>,
    queue: WorkerQueue<Entered>,
    /// Whether only threads of the backend run ops, never threads of callers. Over a network, a function of MPI may
    /// wait for a dead peer, and a caller's thread would return only after the deadline.
    own_thread: bool,
    /// The point-to-point messages; `None` if the group has one rank only.
    messages: Option<Arc<Messages>>,
    comm: Option<(Mpi, Comm)>,
    left: AtomicBool,
    sent: AtomicU64,
}

impl MpiBackend {
    pub(crate) fn connect(init: &GroupInit) -> Result<MpiBackend> {
        let (rank, size) = (init.rank, init.size);
        if size == 1 {
            // MPI can be started only once in a process. If a group of one rank started it, its world would have one
            // rank until the process ends.
            let health = Health::watching(None)?;
            let collectives = Collectives::new((rank, size), health.clone(), None, false);
            return Ok(Self::of(size, health, collectives, None, false));
        }
        let Member { mpi, comm, agreed } = join(init)?;
        let health = Health::watching(side(init)?)?;
        let own_thread = own_thread(init, agreed.local_ranks(rank))?;
        let crowded = agreed.is_oversubscribed(rank);
        let exchange = Exchange::new(mpi, comm, rank, health.clone(), crowded);
        // Over shared memory, MPICH sends messages from 8 KiB on by a handshake, which costs more than several smaller
        // messages.
        let by_handshake = mpi.library().kind == Kind::Mpich && !own_thread;
        let collectives = Collectives::new((rank, size), health.clone(), Some(exchange), by_handshake);
        let messages = Arc::new(Messages::new((mpi, comm), (rank, size), health.clone(), (own_thread, crowded)));
        Ok(Self::of(size, health, collectives, Some((messages, mpi, comm)), own_thread))
    }

    fn of(
        size: u32,
        health: Arc<Health>,
        collectives: Collectives,
        more: Option<(Arc<Messages>, Mpi, Comm)>,
        own_thread: bool,
    ) -> MpiBackend {
        let comm = more.as_ref().map(|(_, mpi, comm)| (*mpi, *comm));
        MpiBackend(Arc::new(Rank {
            size,
            health,
            collectives: Mutex::new(collectives),
            ledger: Arc::default(),
            queue: WorkerQueue::default(),
            own_thread,
            messages: more.map(|(messages, ..)| messages),
            comm,
            left: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        }))
    }
}

/// Whether only threads of the backend run ops. Without a hint, threads of callers may run ops if all ranks share
/// memory: the functions of MPI then return at once, even if a peer is dead.
fn own_thread(init: &GroupInit, here: usize) -> Result<bool> {
    let is = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|v| values.contains(&v.trim()));
    match init.hint(THREAD) {
        Some("own") => Ok(true),
        Some("caller") => Ok(false),
        Some(other) => Err(Error::invalid(format!("{THREAD} is {other:?}; it must be own or caller"))),
        None => {
            let by_network = is("MPIR_CVAR_NOLOCAL", &["1", "yes", "true", "on"]) || is("I_MPI_FABRICS", &["ofi"]);
            Ok(here < init.size as usize || by_network)
        }
    }
}

/// Connects the side channel, through which the ranks watch each other.
fn side(init: &GroupInit) -> Result<Option<SideChannel>> {
    const OVER: &str = "gloo-like";
    match init.hint(SIDE) {
        Some("store") => SideChannel::connect(init, None, crate::NAME),
        Some(OVER) => SideChannel::connect(init, Some(OVER), crate::NAME),
        Some(other) => Err(Error::invalid(format!("{SIDE} is {other:?}; it must be {OVER} or store"))),
        None => match SideChannel::connect(init, Some(OVER), crate::NAME) {
            // gloo-like is not linked into the programs of the ranks.
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::InvalidArgument) => {
                SideChannel::connect(init, None, crate::NAME)
            }
            connected => connected,
        },
    }
}

// SAFETY: 1. Only `Collectives::run` and `Messages` use the spans of a job, and not after the job is completed; MPI
// gets copies of the data. 2. Both check the job's deadline and the group's health between calls of MPI that do not
// block; `abort` takes only the locks of the health, which are never held while a job is completed.
unsafe impl Backend for MpiBackend {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &Capabilities::ALL
    }

    fn submit(&self, job: Job) {
        let request = job.request();
        if request.op.is_p2p() {
            self.submit_batch(vec![job]);
        } else if request.caller == Caller::Waits && !self.0.own_thread && self.0.queue.is_idle() {
            // Only this thread completes the job, so the gate stays open.
            let task = Task::of(request, Gate::OPEN);
            let result = self.0.run(&task, || request.deadline());
            job.complete(result);
        } else {
            self.0.queue(job);
        }
    }

    fn submit_batch(&self, jobs: Vec<Job>) {
        match &self.0.messages {
            Some(messages) => messages.submit(jobs),
            // Dispatch rejects messages from a rank to itself, so a group of one rank never gets any.
            None => drop(jobs),
        }
    }

    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        Ok(self.0.messages.as_ref().map_or_else(Vec::new, |messages| messages.take_back(jobs)))
    }

    fn abort(&self, cause: &Error) {
        let _ = self.0.health.fail(cause.clone());
    }

    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.0.health.waits()
    }

    fn failure(&self) -> Option<Error> {
        self.0.health.cause()
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        let settled = self.0.settle(deadline);
        self.0.leave(settled.is_ok().then_some(deadline));
        settled
    }

    fn leave(&self, deadline: Instant) -> Result {
        let settled = self.0.settle(deadline);
        // A rank of a failed group leaves here, too: its drop would be too late to write the cause into the store.
        if settled.is_ok() || self.0.health.cause().is_some() {
            self.0.leave(settled.is_ok().then_some(deadline));
        }
        settled
    }

    fn bytes_sent(&self) -> Option<u64> {
        Some(self.0.sent.load(Ordering::Relaxed))
    }

    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        let _ = (dtype, reduce);
        // In all algorithms that [`algorithm`] names, the rank that reduces an element has the contributions of all
        // ranks, and reduces them in rank order.
        algorithm(op, self.0.size, bytes).map(|name| AlgorithmInfo { name, reduces_in_rank_order: true })
    }
}

impl Drop for MpiBackend {
    fn drop(&mut self) {
        // The threads of the queue and of the ledger end once no job is in flight.
        self.0.queue.close();
        self.0.ledger.close();
        if self.0.health.cause().is_some() {
            // Dropping `Rank` would leave the group, but a thread that is blocked in a function of MPI may never drop
            // its reference to `Rank`.
            self.0.leave(None);
        }
    }
}

impl Rank {
    /// Runs a collective to its end, but does not complete its job. `own` is the deadline of the job.
    fn run(&self, task: &Task, own: impl Fn() -> Instant) -> Result {
        // Queued jobs wait for this collective. So it must end by the earliest of their deadlines and its own.
        let earliest = || self.queue.least(|queued| queued.deadline);
        let deadline = || earliest().map_or_else(&own, |queued| queued.min(own()));
        let mut collectives = self.collectives.lock();
        let result = collectives.run(task, &deadline);
        self.sent.store(collectives.sent(), Ordering::Relaxed);
        result
    }

    /// Gives a job to the rank's own thread.
    fn queue(self: &Arc<Rank>, job: Job) {
        let entered = self.ledger.enter(job, &self.health);
        let rank = self.clone();
        if let Err((entered, error)) = self.queue.push(entered, "c10d-mpi", move || rank.serve()) {
            self.ledger.finish(entered.id, Err(error));
        }
    }

    fn serve(&self) {
        while let Some(Entered { id, deadline, task }) = self.queue.next() {
            let result = caught(|| self.run(&task, || deadline)).unwrap_or_else(|words| {
                let what = format!("the thread of asynchronous collectives panicked: {words}");
                Err(self.health.fail(Error::new(ErrorKind::Internal, what)))
            });
            // The queue is settled before the job is completed, so that a caller whom the completion wakes finds the
            // queue idle.
            self.queue.settled();
            self.ledger.finish(id, result.map(|()| Outcome::default()));
        }
    }

    /// Waits until nothing is in flight and everything that this rank sent has arrived, but at most until `deadline`.
    fn settle(self: &Arc<Rank>, deadline: Instant) -> Result {
        if self.left.load(Ordering::Acquire) {
            return Ok(());
        }
        let late = |what: &str, guilty: Vec<u32>| {
            Err(Error::new(ErrorKind::Timeout, what).guilty(guilty).phase(Phase::Complete))
        };
        if !self.ledger.drain(deadline) {
            return late("operations that were started are still in flight", Vec::new());
        }
        if let Some(messages) = &self.messages
            && let Err(peers) = messages.settle(deadline)
        {
            return late("messages are still in flight", peers);
        }
        self.health.check()?;
        let until = deadline.min(Instant::now() + FAREWELL);
        let farewell = {
            let rank = self.clone();
            // Another thread's collective may hold the lock. If that thread still holds the lock at `until`, this rank
            // sends no goodbye.
            move || rank.collectives.try_lock_until(until).map(|mut c| drop(c.farewell(until)))
        };
        if self.own_thread {
            let (tell, told) = channel();
            spawn("c10d-mpi-leave", move || {
                farewell();
                // The receiver may have stopped waiting.
                let _ = tell.send(());
            })?;
            let _ = told.recv_timeout(until.saturating_duration_since(Instant::now()) + SLACK);
        } else {
            farewell();
        }
        self.health.check()
    }

    /// Leaves the group. If `in_order` has a deadline and the group has not failed, this function frees the
    /// communicator. It waits for this until the deadline, but at most [`FAREWELL`].
    fn leave(&self, in_order: Option<Instant>) {
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        self.health.leave();
        self.messages.iter().for_each(|messages| messages.close());
        if let (Some(deadline), None, Some((mpi, comm))) = (in_order, self.health.cause(), self.comm) {
            free(mpi, comm, deadline.min(Instant::now() + FAREWELL));
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.leave(None);
    }
}
