//! Collectives in two tiers: one backend among the ranks of a host, another one between the hosts.
#![allow(unsafe_code)]

mod plan;
mod tier_backend;

use std::sync::Arc;
use std::time::{Duration, Instant};

use plan::{Hosts, Plan, Tier};
use tier_backend::{TierBackend, announce};

use crate::backend::{
    AlgorithmInfo, Backend, Caller, Capabilities, GroupInit, Job, JobId, Outer, Request, WorkerQueue,
};
use crate::catalog::OpKind;
use crate::host::{HostId, number};
use crate::panics::caught;
use crate::process::spawn;
use crate::sync::{Condvar, Mutex};
use crate::text::harmless;
use crate::types::{DType, ReduceOp};
use crate::{Error, ErrorKind, Phase, Result};

/// The hint for how many ranks in a row are taken for a host; unless it is set, those that share memory are one.
pub const HOST_HINT: &str = "tiered.ranks-per-host";
/// The hint for the bytes from which on a call is done in two tiers; the same on all ranks.
pub const LEAST_HINT: &str = "tiered.least";
/// What it is unless set: from there on two tiers were faster wherever they were measured.
const LEAST: usize = 4 << 20;
/// How often the watch looks whether a step is to be ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long the group's cause may take to come when a step was ended for it.
const TOLD: Duration = Duration::from_secs(1);
/// How many bytes of another rank's settings an error shows.
const MOST_SHOWN: usize = 200;

/// A backend of two others: large all-reduces and broadcasts go through the first inside a host, and through the second
/// between the first ranks of the hosts; whatever else, through the second alone. Where all ranks are on one host, the
/// first does everything.
///
/// Before such a call all ranks agree on it by the backend that connects them all, so a rank that is missing, or calls
/// something else, is named as by that one.
pub struct Tiered {
    name: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    rank: u32,
    least: usize,
    hosts: Hosts,
    /// Connects all ranks.
    flat: Arc<dyn Backend>,
    local: Option<TierBackend>,
    across: Option<TierBackend>,
    queue: WorkerQueue<Job>,
    watch: Mutex<Watch>,
    changed: Condvar,
}

/// What the watch over the steps goes by.
#[derive(Default)]
struct Watch {
    has_thread: bool,
    /// Whether steps run.
    is_on: bool,
    closed: bool,
}

impl Tiered {
    /// Connects this rank to the others. The name is that of the composition, as it is registered: `inside+between`.
    ///
    /// # Errors
    /// As of the two backends' own starts; `InvalidArgument` for hints that make no sense.
    pub fn connect(name: &'static str, init: &GroupInit) -> Result<Tiered> {
        let (inside, between) = name
            .split_once('+')
            .ok_or_else(|| Error::invalid(format!("{name:?} is not the names of two backends with a + between")))?;
        let least = number_of(init, LEAST_HINT)?.unwrap_or(LEAST);
        let hosts = Hosts(hosts(init, least)?);
        let leaders = hosts.leaders();
        let flat = init.own_backend(if leaders.len() == 1 { inside } else { between }, "all")?;
        let (local, across) = match leaders.len() {
            1 => (None, None),
            _ => {
                let mine = hosts.0.get(init.rank as usize).copied().unwrap_or_default();
                (TierBackend::connect(init, inside, hosts.ranks(mine))?, TierBackend::connect(init, between, leaders)?)
            }
        };
        // Where all ranks are one host, or each is one, there is one tier.
        let is_one = [1, hosts.0.len()].contains(&hosts.leaders().len());
        let least = if is_one { usize::MAX } else { least };
        let (queue, watch, changed) = (WorkerQueue::default(), Mutex::default(), Condvar::default());
        let shared = Shared { rank: init.rank, least, hosts, flat, local, across, queue, watch, changed };
        Ok(Tiered { name, shared: Arc::new(shared) })
    }
}

fn number_of(init: &GroupInit, hint: &str) -> Result<Option<usize>> {
    let parse = |text: &str| {
        text.parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::invalid(format!("{hint} is {text:?}; it must be at least 1")))
    };
    init.hint(hint).map(parse).transpose()
}

/// The host of each rank, numbered in order of their first ranks. All ranks must have the same settings, since these
/// decide which ranks take part in a step.
fn hosts(init: &GroupInit, least: usize) -> Result<Vec<u32>> {
    let each = number_of(init, HOST_HINT)?;
    let settings = format!("{LEAST_HINT} {least}, {HOST_HINT} {}", each.map_or("unset".to_owned(), |n| n.to_string()));
    let key = |rank: u32| format!("host/{rank}");
    let mine = [&HostId::here().to_bytes()[..], settings.as_bytes()].concat();
    init.store.set(&key(init.rank), &mine, init.deadline)?;
    let keys: Vec<String> = (0..init.size).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let read = |(rank, bytes): (u32, Vec<u8>)| {
        let unclear = || Error::new(ErrorKind::Protocol, "the record of its host cannot be read").guilty([rank]);
        let (host, theirs) = bytes.split_first_chunk().ok_or_else(unclear)?;
        if theirs != settings.as_bytes() {
            let theirs = harmless(&String::from_utf8_lossy(theirs), MOST_SHOWN);
            let what = format!(
                "all ranks need the same settings: rank {} has {settings}, rank {rank} has {theirs}",
                init.rank
            );
            return Err(Error::invalid(what).guilty([rank]));
        }
        Ok(HostId::from_bytes(host))
    };
    let ids = (0..).zip(init.store.multi_get(&keys, init.deadline)?).map(read).collect::<Result<Vec<HostId>>>()?;
    Ok(match each {
        Some(each) => (0..init.size).map(|rank| rank / (each as u32)).collect(),
        None => number(&ids, HostId::can_share_memory),
    })
}

impl Shared {
    fn tiers(&self) -> impl Iterator<Item = &TierBackend> {
        self.local.iter().chain(&self.across)
    }

    fn plan(&self, request: &Request) -> Option<Plan> {
        self.hosts.plan(request, self.rank, self.least)
    }

    /// Runs a job to its end, or hands it on.
    fn run(self: &Arc<Self>, job: Job) {
        let Some(plan) = self.plan(job.request()) else { return self.flat.submit(job) };
        self.watch();
        let result = caught(|| self.steps(job.request(), &plan)).unwrap_or_else(|words| {
            Err(self.fail(Error::new(ErrorKind::Internal, format!("a step of a collective panicked: {words}"))))
        });
        self.watch.lock().is_on = false;
        job.complete(result);
    }

    fn steps(&self, request: &Request, plan: &Plan) -> Result {
        let outer = Outer::of(request);
        announce(&*self.flat, &outer)?;
        let Some(span) = request.outputs().first() else { return Ok(()) };
        for step in plan {
            let tier = match step.tier {
                Tier::Local => &self.local,
                Tier::Across => &self.across,
            };
            if let Some(tier) = tier {
                tier.run(&outer, step, span, request.params.reduce).map_err(|e| self.fail(e))?;
            }
        }
        Ok(())
    }

    /// A step has failed. Gives the group's cause, which all ranks hear.
    fn fail(&self, error: Error) -> Error {
        let cause = self.cause_of(error);
        self.abort(&cause);
        cause
    }

    /// Why the group has failed, where a tier did.
    fn cause_of(&self, error: Error) -> Error {
        if *error.kind() == ErrorKind::Aborted {
            // By a watch, here or on a peer: the cause is on its way.
            let begin = Instant::now();
            while self.flat.failure().is_none() && begin.elapsed() < TOLD {
                std::thread::sleep(LOOK);
            }
        }
        self.flat.failure().unwrap_or(error)
    }

    fn abort(&self, cause: &Error) {
        self.flat.abort(cause);
        self.end_steps();
    }

    /// Ends the steps that run. The tiers number the ranks otherwise, and hear the cause over all ranks' backend.
    fn end_steps(&self) {
        let ended = Error::new(ErrorKind::Aborted, "the group has failed");
        self.tiers().for_each(|tier| tier.backend.abort(&ended));
    }

    /// Has the watch look from here on.
    fn watch(self: &Arc<Self>) {
        let mut watch = self.watch.lock();
        watch.is_on = true;
        if !watch.has_thread {
            let shared = self.clone();
            // Without it, steps end by their deadlines.
            watch.has_thread = spawn("c10d-tiered-watch", move || while !shared.look() {}).is_ok();
        }
        drop(watch);
        self.changed.notify_all();
    }

    /// Waits for steps, and looks at them; whether the watch is over.
    fn look(&self) -> bool {
        {
            let mut watch = self.watch.lock();
            while !watch.is_on && !watch.closed {
                self.changed.wait(&mut watch);
            }
            if watch.closed {
                return true;
            }
        }
        std::thread::sleep(LOOK);
        if self.flat.failure().is_some() {
            self.end_steps();
            return true;
        }
        let late = self.queue.least(|job| job.request().deadline()).is_some_and(|deadline| deadline <= Instant::now());
        if late {
            let what = "a collective did not begin in time: the one before it still runs";
            self.abort(&Error::new(ErrorKind::Timeout, what).phase(Phase::Announce));
        }
        late
    }

    fn drained(&self, deadline: Instant) -> Result {
        if self.queue.drain(deadline) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Timeout, "operations that were started are still in flight").phase(Phase::Complete))
    }

    fn end(&self) {
        self.watch.lock().closed = true;
        self.changed.notify_all();
    }
}

// SAFETY: 1. A job's spans are used by steps alone, each of which is over before the next, and the last before the job is
// completed; jobs that are handed on are the other backend's. 2. Steps have the job's deadline, and a little more each, and
// are ended when the group fails; no lock is held while a job is completed.
unsafe impl Backend for Tiered {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> &Capabilities {
        self.shared.flat.capabilities()
    }

    fn submit(&self, job: Job) {
        let shared = &self.shared;
        if job.request().op.is_p2p() {
            return shared.flat.submit(job);
        }
        if shared.queue.is_idle() && (job.request().caller == Caller::Waits || shared.plan(job.request()).is_none()) {
            return shared.run(job);
        }
        let serving = shared.clone();
        let serve = move || {
            while let Some(job) = serving.queue.next() {
                serving.run(job);
                serving.queue.settled();
            }
        };
        // Its time runs from here.
        job.request().deadline();
        if let Err((job, error)) = shared.queue.push(job, "c10d-tiered", serve) {
            job.complete(Err(error));
        }
    }

    fn submit_batch(&self, jobs: Vec<Job>) {
        self.shared.flat.submit_batch(jobs);
    }

    fn run(&self, request: &Request) -> Option<Result> {
        let shared = &self.shared;
        let is_flat = request.op.is_p2p() || shared.queue.is_idle() && shared.plan(request).is_none();
        if is_flat { shared.flat.run(request) } else { None }
    }

    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        self.shared.flat.cancel(jobs)
    }

    fn abort(&self, cause: &Error) {
        self.shared.abort(cause);
    }

    fn failure(&self) -> Option<Error> {
        self.shared.flat.failure()
    }

    fn lost(&self) -> Vec<u32> {
        self.shared.flat.lost()
    }

    fn refused(&self, op: OpKind, error: &Error) {
        self.shared.flat.refused(op, error);
    }

    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.shared.flat.waits()
    }

    fn overdue(&self) -> Option<Error> {
        self.shared.flat.overdue()
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        let drained = self.shared.drained(deadline);
        let flat = self.shared.flat.shutdown(deadline);
        let tiers: Vec<Result> = self.shared.tiers().map(|tier| tier.backend.shutdown(deadline)).collect();
        tiers.into_iter().fold(drained.and(flat), Result::and).map_err(|e| self.shared.cause_of(e))
    }

    fn leave(&self, deadline: Instant) -> Result {
        self.shared.drained(deadline)?;
        self.shared.flat.leave(deadline)?;
        self.shared.tiers().try_for_each(|tier| tier.backend.leave(deadline)).map_err(|e| self.shared.cause_of(e))
    }

    fn bytes_sent(&self) -> Option<u64> {
        let tiers = self.shared.tiers().filter_map(|tier| tier.backend.bytes_sent()).sum::<u64>();
        self.shared.flat.bytes_sent().map(|bytes| bytes + tiers)
    }

    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        if bytes >= self.shared.least && plan::is_tiered(op, dtype, reduce) {
            return Some(AlgorithmInfo { name: "tiered", reduces_in_rank_order: false });
        }
        self.shared.flat.algorithm(op, bytes, dtype, reduce)
    }
}

impl Drop for Tiered {
    fn drop(&mut self) {
        // What was started is still done.
        self.shared.queue.close();
        self.shared.end();
    }
}
