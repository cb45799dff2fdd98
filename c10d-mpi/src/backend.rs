//! The backend: takes jobs and sees that each is run, on the caller's thread wherever that may be.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use c10d_core::backend::{Backend, Caller, Capabilities, GroupInit, Job, JobId, SideChannel, WorkerQueue};
use c10d_core::panics::caught;
use c10d_core::sync::Mutex;
use c10d_core::{DType, Error, ErrorKind, OpKind, Phase, ReduceOp, Result};

use crate::exchange::Exchange;
use crate::health::Health;
use crate::messages::Messages;
use crate::mpi::{Comm, Mpi};
use crate::ops::{Collectives, algorithm};
use crate::thread::spawn;
use crate::world::{Member, join};

/// The hint that says how the ranks watch each other.
pub(crate) const SIDE: &str = "mpi.side";
/// How long a rank that leaves waits for the goodbyes of the others, which say that all it sent has arrived.
const FAREWELL: Duration = Duration::from_millis(500);

/// One rank of one group.
pub(crate) struct MpiBackend(Arc<Rank>);

/// What the threads of one rank share.
struct Rank {
    size: u32,
    health: Arc<Health>,
    collectives: Mutex<Collectives>,
    queue: WorkerQueue<Job>,
    /// `None`: the rank is alone.
    messages: Option<Arc<Messages>>,
    comm: Option<(Mpi, Comm)>,
    left: AtomicBool,
    sent: AtomicU64,
}

impl MpiBackend {
    /// Connects this rank to the others.
    pub(crate) fn connect(init: &GroupInit) -> Result<MpiBackend> {
        let (rank, size) = (init.rank, init.size);
        if size == 1 {
            // No MPI: its process would be a world of one for ever.
            let health = Health::watching(None)?;
            let collectives = Collectives::new(rank, size, health.clone(), None);
            return Ok(Self::of(size, health, collectives, None));
        }
        let Member { mpi, comm, hosts } = join(init)?;
        let health = Health::watching(side(init)?)?;
        let here = hosts.iter().filter(|host| hosts.get(rank as usize) == Some(host)).count();
        let crowded = here > std::thread::available_parallelism().map_or(1, usize::from);
        let exchange = Exchange::new(mpi, comm, rank, health.clone(), crowded);
        let collectives = Collectives::new(rank, size, health.clone(), Some(exchange));
        let messages = Arc::new(Messages::new(mpi, comm, (rank, size), health.clone(), crowded));
        Ok(Self::of(size, health, collectives, Some((messages, mpi, comm))))
    }

    fn of(
        size: u32,
        health: Arc<Health>,
        collectives: Collectives,
        more: Option<(Arc<Messages>, Mpi, Comm)>,
    ) -> MpiBackend {
        let comm = more.as_ref().map(|(_, mpi, comm)| (*mpi, *comm));
        MpiBackend(Arc::new(Rank {
            size,
            health,
            collectives: Mutex::new(collectives),
            queue: WorkerQueue::default(),
            messages: more.map(|(messages, ..)| messages),
            comm,
            left: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        }))
    }
}

/// How the ranks watch each other: MPI says nothing of a peer that is gone.
fn side(init: &GroupInit) -> Result<Option<SideChannel>> {
    const OVER: &str = "gloo-like";
    match init.hint(SIDE) {
        Some("store") => SideChannel::connect(init, None, crate::NAME),
        Some(OVER) => SideChannel::connect(init, Some(OVER), crate::NAME),
        Some(other) => Err(Error::invalid(format!("{SIDE} is {other:?}; it must be {OVER} or store"))),
        None => match SideChannel::connect(init, Some(OVER), crate::NAME) {
            // All programs of a group have it or lack it.
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::InvalidArgument) => {
                SideChannel::connect(init, None, crate::NAME)
            }
            connected => connected,
        },
    }
}

// SAFETY: 1. Spans are used by `Collectives::run` and `Messages` alone, which are through with them before the job is
// completed; MPI has copies. 2. Both watch the job's deadline and the group's health between calls of MPI that do not block;
// `abort` takes only the lock of the health, under which no job is completed.
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
        } else if request.caller == Caller::Waits && self.0.queue.is_idle() {
            let result = self.0.run(&job);
            job.complete(result);
        } else {
            self.0.queue(job);
        }
    }

    fn submit_batch(&self, jobs: Vec<Job>) {
        match &self.0.messages {
            Some(messages) => messages.submit(jobs),
            // Dispatch refuses messages of a rank to itself.
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
        self.0.leave(settled.is_ok());
        settled
    }

    fn leave(&self, deadline: Instant) -> Result {
        self.0.settle(deadline)?;
        self.0.leave(true);
        Ok(())
    }

    fn bytes_sent(&self) -> Option<u64> {
        Some(self.0.sent.load(Ordering::Relaxed))
    }

    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<&'static str> {
        let _ = (dtype, reduce);
        algorithm(op, self.0.size, bytes)
    }
}

impl Drop for MpiBackend {
    fn drop(&mut self) {
        // What is in flight is still run.
        self.0.queue.close();
    }
}

impl Rank {
    /// Runs the job to its end, without completing it.
    fn run(&self, job: &Job) -> Result {
        let request = job.request();
        // What is queued must not wait beyond its own deadline, whatever runs before it.
        let earliest = || self.queue.least(|job| job.request().deadline());
        let deadline = || earliest().map_or(request.deadline(), |queued| queued.min(request.deadline()));
        let mut collectives = self.collectives.lock();
        let result = collectives.run(job, &deadline);
        self.sent.store(collectives.sent(), Ordering::Relaxed);
        result
    }

    /// Has a job run by the rank's own thread.
    fn queue(self: &Arc<Rank>, job: Job) {
        // Its time runs from here, whatever is queued before it.
        job.request().deadline();
        let rank = self.clone();
        if let Err((job, error)) = self.queue.push(job, "c10d-mpi", move || rank.serve()) {
            job.complete(Err(error));
        }
    }

    fn serve(&self) {
        while let Some(job) = self.queue.next() {
            let result = caught(|| self.run(&job)).unwrap_or_else(|words| {
                let what = format!("the thread of asynchronous collectives panicked: {words}");
                Err(self.health.fail(Error::new(ErrorKind::Internal, what)))
            });
            // Before the completion, so that whoever it wakes finds the queue as it is.
            self.queue.settled();
            job.complete(result);
        }
    }

    /// Waits until nothing is in flight, and what this rank sent has arrived.
    fn settle(&self, deadline: Instant) -> Result {
        if self.left.load(Ordering::Acquire) {
            return Ok(());
        }
        let late = |what: &str, guilty: Vec<u32>| {
            Err(Error::new(ErrorKind::Timeout, what).guilty(guilty).phase(Phase::Complete))
        };
        if !self.queue.drain(deadline) {
            return late("operations that were started are still in flight", Vec::new());
        }
        if let Some(messages) = &self.messages
            && let Err(peers) = messages.settle(deadline)
        {
            return late("messages are still in flight", peers);
        }
        self.health.check()?;
        let until = deadline.min(Instant::now() + FAREWELL);
        // Held by an op of another thread, which looks by itself.
        if let Some(mut collectives) = self.collectives.try_lock_until(until) {
            // Who stays says no goodbye, and needs none.
            let _ = collectives.farewell(until);
        }
        self.health.check()
    }

    /// Leaves the peers, and gives the communicator back where nothing is on its way.
    fn leave(&self, in_order: bool) {
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        self.health.leave();
        self.messages.iter().for_each(|messages| messages.close());
        if let (true, None, Some((mpi, comm))) = (in_order, self.health.cause(), self.comm) {
            // It may wait for the others.
            let _ = spawn("c10d-mpi-free", move || drop(mpi.free(comm)));
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.leave(false);
    }
}
