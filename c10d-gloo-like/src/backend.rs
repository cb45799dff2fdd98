//! The backend: it takes jobs and runs each of them, on the caller's thread if possible.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use c10d_core::backend::{AlgorithmInfo, Backend, Caller, Capabilities, GroupInit, Job, JobId, Request, WorkerQueue};
use c10d_core::buffer::Span;
use c10d_core::panics::caught;
use c10d_core::store::deadline_after;
use c10d_core::sync::Mutex;
use c10d_core::{DType, Error, ErrorKind, OpKind, Phase, ReduceOp, Result};

use crate::collectives::Collectives;
use crate::exec::Executor;
use crate::exit::{self, OnExit};
use crate::layout::Layout;
use crate::mesh::{Health, Membership, Mesh, Transport, Wiring};
use crate::p2p::Messages;
use crate::pause::Pause;
use crate::schedule::{Fabric, Hosts, Member, Selection, Table, exact};
use crate::shm::Doorbell;

const IN_FLIGHT: &str = "operations that were started are still in flight";
const MESSAGES: &str = "messages are still in flight";

/// If the tensors of a started collective have at most this many bytes together, the queue's thread need not be woken
/// for it ([`WorkerQueue::push_quietly`]), and may begin it up to 100 µs late. A collective with this many bytes itself
/// takes about 100 µs.
const SHORT: usize = 256 << 10;

/// The items of a started call are sent before its turn only if the calls that are queued before it have fewer bytes
/// than this together. The items of more calls would be evicted from the cache before the peers read them.
const AHEAD: usize = 32 << 10;

/// One rank of one group.
pub(crate) struct GlooLike(Arc<Rank>);

/// A job in the queue of started collectives.
struct Started {
    job: Job,
    /// All peers with a lower rank than this have already been sent their items of the call.
    written: u32,
}

/// The state that the threads of one rank share.
struct Rank {
    health: Arc<Health>,
    /// This field comes before the links, so that it is dropped first: peers get the goodbye before their links break.
    membership: Mutex<Option<Membership>>,
    collectives: Mutex<Collectives>,
    /// The started collectives.
    queue: WorkerQueue<Started>,
    messages: Arc<Messages>,
    rank: u32,
    world: u32,
    selection: Arc<Selection>,
    sent: AtomicU64,
    /// How long the program may wait at its end until the peers have received all data.
    drop_within: Duration,
}

impl GlooLike {
    /// Connects this rank to the others.
    pub(crate) fn connect(
        init: &GroupInit,
        transport: Transport,
        cma: bool,
        silence: Duration,
        table: &Table,
    ) -> Result<GlooLike> {
        let mesh = Mesh::connect(Wiring {
            group: init.group.clone(),
            rank: init.rank,
            size: init.size,
            session: init.session,
            store: init.store.clone(),
            reports: init.reports(),
            transport,
            cma,
            tuning: table.tuning(),
            deadline: init.deadline,
            silence,
            lost: Box::new(init.watch()),
            warn_after: init.warn_after()?,
        })?;
        let Mesh { membership, collective, p2p, topology, segment, oversubscribed, health } = mesh;
        let pause = Pause::new(oversubscribed, segment.clone().map(Doorbell::new));
        let me = Member { world: init.size, rank: init.rank };
        let fabric = Fabric::of(&topology);
        let selection = Arc::new(Selection::new(table, init.size, fabric));
        let executor = Executor::new(init.rank, collective, health.clone(), pause.with_room(init.size as usize));
        let layout = Layout::new(me, fabric, selection.clone(), Hosts::new(&topology.hosts));
        let messages = Arc::new(Messages::new(p2p, health.clone(), segment, oversubscribed));
        let asked = Arc::downgrade(&messages);
        health.ask_messages(Box::new(move || asked.upgrade()?.waits()));
        let rank = Arc::new(Rank {
            health,
            membership: Mutex::new(Some(membership)),
            collectives: Mutex::new(Collectives::new(executor, layout)),
            queue: WorkerQueue::default(),
            messages,
            rank: init.rank,
            world: init.size,
            selection,
            sent: AtomicU64::new(0),
            drop_within: init.drop_within,
        });
        let weak: Weak<Rank> = Arc::downgrade(&rank);
        exit::register(weak);
        Ok(GlooLike(rank))
    }
}

// SAFETY: 1. Only `Collectives::run` and `Messages` use spans, and they have finished with them before the job is
// completed. 2. Both check the job's deadline and the group's health at least every 10 ms; `abort` takes only the lock
// of the health, under which no job is completed.
unsafe impl Backend for GlooLike {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &Capabilities::ALL
    }

    fn submit(&self, job: Job) {
        let request = job.request();
        if request.op.is_p2p() {
            self.0.messages.submit(job);
        } else if request.caller == Caller::Waits && self.0.queue.is_idle() {
            let result = self.0.run(job.request(), 0);
            job.complete(result);
        } else {
            self.0.queue(job);
        }
    }

    fn run(&self, request: &Request) -> Option<Result> {
        if request.op.is_p2p() {
            return self.0.messages.run_at_once(request);
        }
        self.0.queue.is_idle().then(|| self.0.run(request, 0))
    }

    fn help(&self, deadline: Instant, is_done: &dyn Fn() -> bool) {
        self.0.queue.help(deadline, is_done, |started| self.0.complete(started));
    }

    fn help_message(&self, deadline: Instant, is_done: &dyn Fn() -> bool) {
        self.0.messages.help(deadline, is_done);
    }

    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        Ok(self.0.messages.take_back(jobs))
    }

    fn abort(&self, cause: &Error) {
        self.0.health.fail(cause.clone());
    }

    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        let health = self.0.health.clone();
        Some(Box::new(move || health.waits_for()))
    }

    fn refused(&self, op: OpKind, error: &Error) {
        self.0.health.refused(op, error);
    }

    fn failure(&self) -> Option<Error> {
        if self.0.health.failed() { self.0.health.cause() } else { None }
    }

    fn lost(&self) -> Vec<u32> {
        self.0.health.lost_ranks()
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        let settled = self.0.settle(deadline);
        self.0.say_goodbye();
        settled
    }

    fn overdue(&self) -> Option<Error> {
        let messages = self.0.messages.unsettled();
        if self.0.health.is_in_call() {
            return Some(self.0.health.overdue(IN_FLIGHT, true, &self.0.others()));
        }
        messages.in_flight.then(|| self.0.health.overdue(MESSAGES, false, &messages.waits_for))
    }

    fn leave(&self, deadline: Instant) -> Result {
        self.0.settle(deadline)?;
        self.0.say_goodbye();
        Ok(())
    }

    fn bytes_sent(&self) -> Option<u64> {
        Some(self.0.sent.load(Ordering::Relaxed))
    }

    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        if op.is_p2p() {
            return None;
        }
        let exact = op.reduces() && exact(dtype, reduce);
        let algorithm = self.0.selection.choose(op, bytes, exact);
        Some(AlgorithmInfo { name: algorithm.name(), reduces_in_rank_order: algorithm.reduces_in_rank_order() })
    }
}

impl Drop for GlooLike {
    fn drop(&mut self) {
        // Jobs in flight still run. The last thread that drops the rank sends the goodbye, unless the goodbye has been
        // sent already.
        self.0.queue.close();
        self.0.messages.close();
    }
}

impl Rank {
    /// Runs the call to its end. The peers with a lower rank than `written` have already been sent the items of the
    /// call.
    fn run(&self, request: &Request, written: u32) -> Result {
        // A queued job must not wait beyond its own deadline, so the call that runs before it ends by that deadline,
        // too.
        let earliest = || self.queue.least(|started| started.job.request().deadline());
        let deadline = || earliest().map_or(request.deadline(), |queued| queued.min(request.deadline()));
        let mut collectives = self.collectives.lock();
        let result = collectives.run(request, written, &deadline);
        self.sent.store(collectives.sent(), Ordering::Relaxed);
        result
    }

    /// Passes a job to the thread for started collectives.
    fn queue(self: &Arc<Rank>, job: Job) {
        // Reading the deadline starts the job's timeout, which must not depend on the jobs that are queued before it.
        job.request().deadline();
        let short = bytes(job.request()) <= SHORT;
        let started = match self.write_ahead(job.request()) {
            Ok(written) => Started { job, written },
            Err(error) => return job.complete(Err(error)),
        };
        let rank = self.clone();
        let serve = move || rank.serve();
        let (queue, name) = (&self.queue, "c10d collectives");
        let queued = if short { queue.push_quietly(started, name, serve) } else { queue.push(started, name, serve) };
        if let Err((Started { job, .. }, error)) = queued {
            // The other ranks wait for this rank, so the group fails.
            job.complete(Err(self.health.fail(error)));
        }
    }

    /// Sends the items of a small call at once, so that the peers need not wait until this rank waits for the call.
    /// Returns a rank: all peers with a lower rank have been sent their items.
    fn write_ahead(&self, request: &Request) -> Result<u32> {
        let Some(mut collectives) = self.collectives.try_lock() else { return Ok(0) };
        // All queued calls must have sent their items, since links keep the order of calls. No queued call may use the
        // memory of this call, since the contents of that memory are known only when the queued call has ended.
        let is_next = self.queue.look(|queued| {
            let apart = |span: &Span, before: &Started| spans(before.job.request()).all(|other| !span.overlaps(other));
            let precedes = |before: &Started| before.written == self.world && spans(request).all(|s| apart(s, before));
            let ahead = queued.iter().map(|before| bytes(before.job.request())).sum::<usize>();
            ahead < AHEAD && queued.iter().all(precedes)
        });
        if is_next == Some(true) { collectives.write_ahead(request) } else { Ok(0) }
    }

    fn serve(&self) {
        while let Some(started) = self.queue.next() {
            self.complete(started);
        }
    }

    /// Runs a job of the queue to its end, and completes it.
    fn complete(&self, Started { job, written }: Started) {
        let result = caught(|| self.run(job.request(), written)).unwrap_or_else(|words| {
            // The group has failed already, during the unwinding. Only this error has the words of the panic.
            let error = Error::new(ErrorKind::Internal, format!("a started collective panicked: {words}"));
            self.health.fail(error.clone());
            Err(error)
        });
        // The completion wakes a thread. If no other job is queued, that thread must find the queue idle: then it runs
        // its next call itself, instead of queueing it.
        self.queue.settled();
        job.complete(result);
    }

    fn others(&self) -> Vec<u32> {
        (0..self.world).filter(|r| *r != self.rank).collect()
    }

    /// Waits until nothing is in flight and the peers have received everything.
    fn settle(&self, deadline: Instant) -> Result {
        if self.membership.lock().is_none() {
            return Ok(());
        }
        // If the deadline has already passed, this does not ask the peers which ranks are missing, since the answers
        // take time.
        let patient = Instant::now() < deadline;
        let late = |what: &str, collective: bool, waiting_for: &[u32]| match patient {
            true => Err(self.health.overdue(what, collective, waiting_for)),
            false => {
                Err(Error::new(ErrorKind::Timeout, what).guilty(waiting_for.iter().copied()).phase(Phase::Complete))
            }
        };
        if !self.queue.drain(deadline) {
            return late(IN_FLIGHT, true, &self.others());
        }
        self.conclude(deadline)?;
        let messages = self.messages.settle(deadline);
        if messages.in_flight {
            return late(MESSAGES, false, &messages.waits_for);
        }
        let mut untaken = messages.untaken;
        untaken.extend(self.untaken_collectives(deadline));
        self.conclude(deadline)?;
        untaken.sort_unstable();
        untaken.dedup();
        if untaken.is_empty() {
            Ok(())
        } else {
            late("peers have not received everything that was sent", false, &untaken)
        }
    }

    /// Checks for the last time whether all ranks made the same calls. An error means that they did not, and the group
    /// has failed.
    fn conclude(&self, deadline: Instant) -> Result {
        // If an op of another thread holds the lock, that op checks the calls itself.
        let collectives = self.collectives.try_lock_until(deadline);
        collectives.and_then(|mut collectives| collectives.conclude(deadline)).map_or(Ok(()), Err)
    }

    /// Waits until the peers have received all data of the collectives. After the deadline, or after the longest
    /// timeout of a collective, returns the ranks that have not received everything.
    fn untaken_collectives(&self, deadline: Instant) -> Vec<u32> {
        // If an op of another thread holds the lock until the deadline, that op is not complete, and its data does not
        // count.
        let Some(mut collectives) = self.collectives.try_lock_until(deadline) else { return Vec::new() };
        let deadline = deadline.min(deadline_after(collectives.patience()));
        let mut pause = Duration::from_micros(100);
        loop {
            let untaken = self.untaken(&collectives);
            if untaken.is_empty() || Instant::now() >= deadline {
                return untaken;
            }
            std::thread::sleep(pause);
            // A peer that does not receive the data may have made another call. Such a peer never receives the data.
            collectives.conclude(Instant::now());
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Returns the ranks that have not received all data of the collectives yet, except ranks that are leaving. Returns
    /// none if the group has failed.
    fn untaken(&self, collectives: &Collectives) -> Vec<u32> {
        if self.health.failed() {
            return Vec::new();
        }
        let untaken = collectives.links().filter(|(peer, link)| link.is_untaken() && !self.health.is_leaving(*peer));
        untaken.map(|(peer, _)| peer).collect()
    }

    /// Sends the goodbye to the peers, unless it has been sent already.
    fn say_goodbye(&self) {
        let Some(membership) = self.membership.lock().take() else { return };
        // If another thread runs an op, this thread does not end the streams of the links: the op still needs them.
        if let Some(collectives) = self.collectives.try_lock() {
            collectives.links().for_each(|(_, link)| link.finish());
        }
        self.messages.finish();
        drop(membership);
    }
}

fn spans(request: &Request) -> impl Iterator<Item = &Span> {
    request.inputs().iter().chain(request.outputs())
}

/// Returns the number of bytes of all tensors of a call.
fn bytes(request: &Request) -> usize {
    spans(request).map(Span::bytes).sum()
}

impl OnExit for Rank {
    /// Whether a peer has yet to receive data of completed calls. The operating system drops undelivered data if a
    /// process ends with unread bytes in a socket, or if the process was the last one in its network namespace.
    fn holds_up(&self, waited: Duration) -> bool {
        let here = self.membership.try_lock().is_some_and(|m| m.is_some());
        if !here || waited >= self.drop_within || self.health.failed() {
            return false;
        }
        // If another thread still runs an op while the program ends, that op is not completed, so its data does not
        // count.
        let collectives = || self.collectives.try_lock().is_some_and(|c| !self.untaken(&c).is_empty());
        collectives() || self.messages.untaken().unwrap_or(false)
    }

    fn end(&self) {
        if self.membership.try_lock().is_none_or(|m| m.is_some()) {
            self.health.exit();
        }
    }
}
