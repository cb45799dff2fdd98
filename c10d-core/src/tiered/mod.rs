//! Collectives in two tiers: one backend connects the ranks of a host, another backend connects the hosts.
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

/// The hint that sets how many consecutive ranks count as one host. Without it, ranks that share memory count as one
/// host.
pub const HOST_HINT: &str = "tiered.ranks-per-host";
/// The hint that sets the smallest call, in bytes, that is done in two tiers. All ranks must set the same value.
pub const LEAST_HINT: &str = "tiered.least";
/// The value of [`LEAST_HINT`] if it is not set, in bytes. Two tiers were measured to be faster from this size on.
const LEAST: usize = 4 << 20;
/// The interval at which the watch, a thread, checks whether running steps must be ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long a rank whose tier was aborted waits for the error by which the group failed. A call waits until its
/// deadline, if that is later.
const CAUSE_WAIT: Duration = Duration::from_secs(1);
/// The largest number of bytes of another rank's settings that an error shows.
const MOST_SHOWN: usize = 200;

/// A backend composed of two others. Large broadcasts and large all-reduces are done in two tiers: the first backend
/// works inside each host, and the second between the first ranks of the hosts. All other calls use only the second
/// backend, including all-reduces of 16-bit floats and those with `Avg` or `PreMulSum`. If all ranks are on one host,
/// all calls use only the first backend; if each rank is on its own host, only the second.
///
/// A call in two tiers begins with a barrier over the backend that connects all ranks. If a rank is missing or makes a
/// different call, the barrier returns the same error as a call in one tier.
pub struct Tiered {
    name: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    rank: u32,
    least: usize,
    hosts: Hosts,
    /// The backend that connects all ranks.
    flat: Arc<dyn Backend>,
    local: Option<TierBackend>,
    across: Option<TierBackend>,
    queue: WorkerQueue<Job>,
    watch: Mutex<Watch>,
    changed: Condvar,
}

/// The state of the thread that watches the steps.
#[derive(Default)]
struct Watch {
    has_thread: bool,
    /// Whether steps are running.
    is_on: bool,
    closed: bool,
}

impl Tiered {
    /// Connects this rank to the others. `name` is the registered name of the composed backend: `inside+between`.
    ///
    /// # Errors
    /// The errors of the store, and of the two backends when they are made. `InvalidArgument` if a hint is not a
    /// positive number, or if ranks have different hints.
    pub fn connect(name: &'static str, init: &GroupInit) -> Result<Tiered> {
        let (inside, between) = name
            .split_once('+')
            .ok_or_else(|| Error::invalid(format!("{name:?} must be the names of two backends, joined by +")))?;
        let least = number_of(init, LEAST_HINT)?.unwrap_or(LEAST);
        let hosts = Hosts(hosts(init, least)?);
        let leaders = hosts.leaders();
        let flat = init.own_backend(if leaders.len() == 1 { inside } else { between }, "all")?;
        // If all ranks are on one host, or each rank is on its own host, there is only one tier.
        let is_one = [1, hosts.0.len()].contains(&leaders.len());
        let (local, across) = match leaders.len() {
            1 => (None, None),
            _ => {
                let mine = hosts.0.get(init.rank as usize).copied().unwrap_or_default();
                (TierBackend::connect(init, inside, hosts.ranks(mine))?, TierBackend::connect(init, between, leaders)?)
            }
        };
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

/// Returns the number of each rank's host. Hosts are numbered in the order of their first ranks. All ranks must have
/// the same settings, which decide who takes part in a step.
fn hosts(init: &GroupInit, least: usize) -> Result<Vec<u32>> {
    let each = number_of(init, HOST_HINT)?;
    let settings = format!("{LEAST_HINT} {least}, {HOST_HINT} {}", each.map_or("unset".to_owned(), |n| n.to_string()));
    let key = |rank: u32| format!("host/{rank}");
    let mine = [&HostId::here().to_bytes()[..], settings.as_bytes()].concat();
    init.store.set(&key(init.rank), &mine, init.deadline)?;
    let keys: Vec<String> = (0..init.size).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let read = |(rank, bytes): (u32, Vec<u8>)| {
        let unclear =
            || Error::new(ErrorKind::Protocol, format!("the host record of rank {rank} cannot be read")).guilty([rank]);
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

/// Returns the error by which the group failed, or `error` (of a tier) if the group has not failed. If the tier was
/// aborted, some rank's watch has aborted it because the group failed. The failure reaches this rank soon, so this
/// function waits for it until the deadline.
fn cause_of(error: Error, failure: impl Fn() -> Option<Error>, deadline: Instant) -> Error {
    let mut cause = failure();
    while cause.is_none() && *error.kind() == ErrorKind::Aborted && Instant::now() < deadline {
        std::thread::sleep(LOOK);
        cause = failure();
    }
    cause.unwrap_or(error)
}

impl Shared {
    fn tiers(&self) -> impl Iterator<Item = &TierBackend> {
        self.local.iter().chain(&self.across)
    }

    fn plan(&self, request: &Request) -> Option<Plan> {
        self.hosts.plan(request, self.rank, self.least)
    }

    /// Runs a job in two tiers to its end, or passes it to the backend that connects all ranks.
    fn run(self: &Arc<Self>, job: Job) {
        let Some(plan) = self.plan(job.request()) else { return self.flat.submit(job) };
        self.watch();
        let result = caught(|| self.steps(job.request(), &plan)).unwrap_or_else(|words| {
            let error = Error::new(ErrorKind::Internal, format!("a step of a collective panicked: {words}"));
            Err(self.fail(error, Instant::now()))
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
                tier.run(&outer, step, span, request.params.reduce)
                    .map_err(|e| self.fail(e, outer.deadline.max(Instant::now() + CAUSE_WAIT)))?;
            }
        }
        Ok(())
    }

    /// Fails the group because a step has failed. Returns the error by which the group failed, which all ranks get. If
    /// a peer aborted the step, `error` lacks this cause, so the function waits for the cause until `deadline`.
    fn fail(&self, error: Error, deadline: Instant) -> Error {
        let cause = self.cause_of(error, deadline);
        self.abort(&cause);
        cause
    }

    /// The same as the function [`cause_of`], for this backend's group.
    fn cause_of(&self, error: Error, deadline: Instant) -> Error {
        cause_of(error, || self.flat.failure(), deadline)
    }

    fn abort(&self, cause: &Error) {
        self.flat.abort(cause);
        self.end_steps();
    }

    /// Ends the running steps. Each tier has its own rank numbers, so the tiers do not get the cause. All ranks get the
    /// cause through the backend that connects them.
    fn end_steps(&self) {
        let ended = Error::new(ErrorKind::Aborted, "the group has failed");
        self.tiers().for_each(|tier| tier.backend.abort(&ended));
    }

    /// Makes the watch check the steps from now on. The first call starts the thread.
    fn watch(self: &Arc<Self>) {
        let mut watch = self.watch.lock();
        watch.is_on = true;
        if !watch.has_thread {
            let shared = self.clone();
            // If the thread cannot be started, steps end at their deadlines.
            watch.has_thread = spawn("c10d-tiered-watch", move || while !shared.look() {}).is_ok();
        }
        drop(watch);
        self.changed.notify_all();
    }

    /// Waits until steps are running, then checks once. If the group has failed, or a queued job is late and so fails
    /// the group, ends the steps. Returns whether the watch has ended.
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
            let what = "a collective did not begin in time: the collective before it still runs";
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

// SAFETY: 1. Only steps use the spans of a job. Each step ends before the next begins, and the last ends before the job
// is completed. The backend that connects all ranks completes the jobs that are passed to it. 2. The deadlines of steps
// are a little after that of the job, and steps are ended when the group fails. No lock is held while a job is
// completed.
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
        // The first call of `deadline` starts the timeout of the job.
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
        tiers
            .into_iter()
            .fold(drained.and(flat), Result::and)
            .map_err(|e| self.shared.cause_of(e, Instant::now() + CAUSE_WAIT))
    }

    fn leave(&self, deadline: Instant) -> Result {
        self.shared.drained(deadline)?;
        self.shared.flat.leave(deadline)?;
        self.shared
            .tiers()
            .try_for_each(|tier| tier.backend.leave(deadline))
            .map_err(|e| self.shared.cause_of(e, Instant::now() + CAUSE_WAIT))
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
        // Jobs that are in the queue still run.
        self.shared.queue.close();
        self.shared.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aborted_tier_waits_for_the_cause_until_the_deadline() {
        let (begin, aborted) = (Instant::now(), || Error::new(ErrorKind::Aborted, "the group has failed"));
        let dead = || Error::new(ErrorKind::PeerDead { how: "its process ended".to_owned() }, "").guilty([1]);
        let late = || (begin.elapsed() > 2 * CAUSE_WAIT).then(dead);
        assert_eq!(cause_of(aborted(), late, begin + 60 * CAUSE_WAIT).report().guilty, [1]);
        // Another error than `Aborted` is the cause. After the deadline, `cause_of` does not wait.
        let none = || None;
        assert_eq!(cause_of(dead(), none, begin + 3600 * CAUSE_WAIT).report().guilty, [1]);
        assert_eq!(*cause_of(aborted(), none, begin).kind(), ErrorKind::Aborted);
    }
}
