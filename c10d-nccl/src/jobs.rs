//! The unfinished jobs, and the cause of the failure that ends them. No lock of this table is held during a call of
//! CUDA or NCCL, so a call that does not return blocks no other thread.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use c10d_core::backend::{Job, let_go};
use c10d_core::panics::caught;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Phase, Result};

/// How long running jobs may take to end after a peer's program has ended.
const ENDED: Duration = Duration::from_secs(1);
/// The pause between two checks whether the jobs have ended.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was sent to the device.
    Queued,
    /// The device may be using the job's memory.
    Issued,
}

struct Slot {
    job: Job,
    stage: Stage,
    deadline: Instant,
    /// The rank whose fingerprint of this call has not arrived yet.
    awaits: Option<u32>,
    /// The other rank, if the job is a message.
    peer: Option<u32>,
    /// Whether the device has finished the job.
    passed: bool,
}

#[derive(Default)]
struct Jobs {
    slots: BTreeMap<u64, Slot>,
    next: u64,
    failed: Option<Error>,
    /// When the deadline watch (the thread in [`JobTable::wait_failure`]) will wake without a notification.
    wakes: Option<Instant>,
    /// Whether the backend was dropped or shut down, or this rank has left the group.
    closed: bool,
    /// Whether the engine's thread (the thread that calls NCCL) has ended.
    over: bool,
    /// The error with which this rank's next call fails the group. It is set if a peer's program ended without leaving
    /// the group, and all jobs were finished.
    ended: Option<Error>,
}

/// The call of CUDA, NCCL or the store that the engine's thread is making.
#[derive(Default)]
struct Calling {
    what: Option<(&'static str, Instant)>,
    /// Whether new calls are forbidden, because the communicators are being aborted.
    barred: bool,
}

#[derive(Default)]
pub(crate) struct JobTable {
    /// Whether the group fails if this rank rejects a collective. If calls are not compared, NCCL would pair the other
    /// ranks' collective with this rank's next collective.
    strict: bool,
    jobs: Mutex<Jobs>,
    changed: Condvar,
    calling: Mutex<Calling>,
    called: Condvar,
}

impl JobTable {
    pub(crate) fn new(strict: bool) -> JobTable {
        JobTable { strict, ..JobTable::default() }
    }

    /// Adds a job and returns its number. If the backend has failed or is closed, this ends the job and returns `None`.
    /// The job is finished when the device has finished it and the fingerprint of rank `awaits` was received.
    pub(crate) fn enter(&self, job: Job, awaits: Option<u32>) -> Option<u64> {
        let deadline = job.request().deadline();
        let peer = job.request().op.is_p2p().then_some(job.request().params.peer);
        let mut jobs = self.jobs.lock();
        if jobs.failed.is_none()
            && let Some(cause) = jobs.ended.take()
        {
            jobs.failed = Some(cause);
            self.changed.notify_all();
        }
        let refusal = jobs.failed.clone().or_else(|| jobs.closed.then(closed));
        if let Some(cause) = refusal {
            drop(jobs);
            job.complete(Err(cause));
            return None;
        }
        let id = jobs.next;
        jobs.next += 1;
        jobs.slots.insert(id, Slot { job, stage: Stage::Queued, deadline, awaits, peer, passed: false });
        if jobs.wakes.is_none_or(|at| deadline < at) {
            self.changed.notify_all();
        }
        Some(id)
    }

    /// Called before the device gets the job's memory. Returns `false` if the job has already ended, or the group has
    /// failed.
    pub(crate) fn issue(&self, id: u64) -> bool {
        let mut jobs = self.jobs.lock();
        if jobs.failed.is_some() {
            return false;
        }
        jobs.slots.get_mut(&id).map(|slot| slot.stage = Stage::Issued).is_some()
    }

    /// Ends a job with this result, unless it has already ended. If the result is a success, but the fingerprint of
    /// rank `awaits` was not received yet, `checked` ends the job later.
    pub(crate) fn finish(&self, id: u64, result: Result) {
        let mut jobs = self.jobs.lock();
        // After a failure, the deadline watch ends all jobs with the same cause.
        if jobs.failed.is_some() {
            return;
        }
        if let Some(slot) = jobs.slots.get_mut(&id)
            && result.is_ok()
        {
            slot.passed = true;
            if slot.awaits.is_some() {
                return;
            }
        }
        let slot = jobs.slots.remove(&id);
        if jobs.slots.is_empty() && jobs.closed {
            self.changed.notify_all();
        }
        drop(jobs);
        if let Some(slot) = slot {
            slot.job.complete(result);
        }
    }

    /// Ends a job that was rejected before any call of NCCL. If the table is strict and the job is a collective, this
    /// fails the group.
    pub(crate) fn refuse(&self, id: u64, mut error: Error) {
        let collective = self.jobs.lock().slots.get(&id).is_some_and(|slot| slot.peer.is_none());
        if self.strict && collective {
            error.report_mut().what.push_str("; the ranks' calls are not compared in this group, so it has failed");
            self.fail(error);
        } else {
            self.finish(id, Err(error));
        }
    }

    /// Called when the fingerprint for which a job waited was received and agrees with this rank's.
    pub(crate) fn checked(&self, id: u64) {
        let passed = self.jobs.lock().slots.get_mut(&id).is_some_and(|slot| {
            slot.awaits = None;
            slot.passed
        });
        if passed {
            self.finish(id, Ok(()));
        }
    }

    /// Fails all unfinished and later jobs with this cause. After the first failure, later causes are ignored.
    pub(crate) fn fail(&self, cause: Error) {
        let mut jobs = self.jobs.lock();
        if jobs.failed.is_none() {
            jobs.failed = Some(cause);
            self.changed.notify_all();
        }
    }

    /// Called when a peer's program ended without leaving the group. Running jobs get a short time to end, since the
    /// peer may have done its part of them. After that, unfinished and later jobs fail with this cause.
    pub(crate) fn peer_ended(&self, cause: Error) {
        let patience = self.left().map_or(ENDED, |left| ENDED.min(left / 2));
        let until = Instant::now() + patience;
        let mut jobs = self.jobs.lock();
        while !jobs.slots.is_empty() && jobs.failed.is_none() && Instant::now() < until {
            self.changed.wait_for(&mut jobs, LOOK);
        }
        if jobs.slots.is_empty() {
            jobs.ended = Some(cause);
            return;
        }
        drop(jobs);
        self.fail(cause);
    }

    /// Waits until all jobs are finished, or until a failure.
    pub(crate) fn wait_idle(&self, deadline: Instant) -> Result {
        let mut jobs = self.jobs.lock();
        while !jobs.slots.is_empty() && jobs.failed.is_none() {
            if self.changed.wait_until(&mut jobs, deadline).timed_out() && !jobs.slots.is_empty() {
                let mut awaits: Vec<u32> = jobs.slots.values().filter_map(|s| s.awaits.or(s.peer)).collect();
                awaits.dedup();
                drop(jobs);
                let what = format!("operations that were started are still in flight{}", self.inside());
                return Err(late(&what).guilty(awaits));
            }
        }
        Ok(())
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.jobs.lock().failed.clone()
    }

    /// Returns the remaining time of the job with the earliest deadline, or `None` if there is no job.
    pub(crate) fn left(&self) -> Option<Duration> {
        let first = self.jobs.lock().slots.values().map(|s| s.deadline).min();
        first.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn wait_for_failure(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut jobs = self.jobs.lock();
        while jobs.failed.is_none() && !self.changed.wait_until(&mut jobs, until).timed_out() {}
    }

    /// Rejects all later jobs.
    pub(crate) fn close(&self) {
        self.jobs.lock().closed = true;
        self.changed.notify_all();
    }

    /// Called when the engine's thread ends.
    pub(crate) fn over(&self) {
        self.jobs.lock().over = true;
        self.changed.notify_all();
    }

    pub(crate) fn wait_over(&self, deadline: Instant) -> Result {
        let mut jobs = self.jobs.lock();
        while !jobs.over {
            if let Some(cause) = &jobs.failed {
                return Err(cause.clone());
            }
            if self.changed.wait_until(&mut jobs, deadline).timed_out() {
                drop(jobs);
                return Err(late(&format!("the communicators did not close in time{}", self.inside())));
            }
        }
        Ok(())
    }

    /// Waits for a failure and returns it. A job that is not finished at its deadline is a failure. Returns `None` if
    /// the engine's thread has ended, or the backend is closed and all jobs are finished.
    pub(crate) fn wait_failure(&self) -> Option<Error> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(cause) = &jobs.failed {
                return Some(cause.clone());
            }
            if jobs.over || (jobs.closed && jobs.slots.is_empty()) {
                return None;
            }
            let first = jobs.slots.values().min_by_key(|s| s.deadline).map(|s| (s.deadline, s.awaits.or(s.peer)));
            if let Some((deadline, awaits)) = first
                && deadline <= Instant::now()
            {
                drop(jobs);
                let absent = awaits.map_or(String::new(), |r| format!(", and rank {r} has not made its call"));
                let what = format!("the operation did not end in time{absent}{}", self.inside());
                self.fail(late(&what).guilty(awaits));
                jobs = self.jobs.lock();
                continue;
            }
            let next = first.map(|(deadline, _)| deadline);
            jobs.wakes = next;
            match next {
                Some(next) => drop(self.changed.wait_until(&mut jobs, next)),
                None => self.changed.wait(&mut jobs),
            }
        }
    }

    /// Removes and returns all unfinished jobs.
    pub(crate) fn take_all(&self) -> Vec<(Job, Stage)> {
        let slots = std::mem::take(&mut self.jobs.lock().slots);
        slots.into_values().map(|s| (s.job, s.stage)).collect()
    }

    /// Returns the shortest time for which an unfinished job may still keep its memory after a failure.
    pub(crate) fn grace(&self) -> Duration {
        let jobs = self.jobs.lock();
        let least = jobs.slots.values().map(|s| let_go(s.job.request().timeout)).min();
        least.unwrap_or(Duration::from_millis(100))
    }

    /// Makes a call that may never return. If the communicators are being aborted, returns an error instead.
    pub(crate) fn calling<T>(&self, what: &'static str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        {
            let mut calling = self.calling.lock();
            if calling.barred {
                return Err(self.failure().unwrap_or_else(closed));
            }
            calling.what = Some((what, Instant::now()));
        }
        // The call may be a method of a store, which is foreign code and may panic.
        let result = caught(call)
            .unwrap_or_else(|words| Err(Error::new(ErrorKind::Internal, format!("{what} panicked: {words}"))));
        self.calling.lock().what = None;
        self.called.notify_all();
        result
    }

    /// Forbids all later calls.
    pub(crate) fn bar(&self) {
        self.calling.lock().barred = true;
    }

    /// Waits until no call is running, but no longer than `patience`.
    pub(crate) fn quiet(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut calling = self.calling.lock();
        while calling.what.is_some() && !self.called.wait_until(&mut calling, until).timed_out() {}
    }

    /// Describes the call that is running, as the end of a sentence.
    pub(crate) fn inside(&self) -> String {
        match self.calling.lock().what {
            Some((what, since)) => format!("; the backend has been inside {what} for {:.1?}", since.elapsed()),
            None => String::new(),
        }
    }
}

fn late(what: &str) -> Error {
    Error::new(ErrorKind::Timeout, what.to_owned()).phase(Phase::Transfer)
}

fn closed() -> Error {
    Error::new(ErrorKind::Shutdown, "the group's communicators are closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_stays() {
        let jobs = JobTable::default();
        for what in ["first", "second"] {
            jobs.fail(Error::new(ErrorKind::Device, what));
        }
        assert_eq!(jobs.failure().unwrap().report().what, "first");
        assert_eq!(jobs.wait_failure().unwrap().report().what, "first");
    }

    #[test]
    fn a_call_that_panics_is_an_error() {
        let jobs = JobTable::default();
        let e = jobs.calling("the store", || -> Result { panic!("a store's panic") }).unwrap_err();
        assert_eq!(*e.kind(), ErrorKind::Internal);
        assert!(e.to_string().contains("the store panicked: a store's panic"), "{e}");
        assert_eq!(jobs.inside(), "", "no call is running any more");
    }

    #[test]
    fn a_call_that_runs_is_waited_for() {
        let (jobs, order) = (JobTable::default(), Mutex::new(Vec::new()));
        let (begun, is_begun) = crossbeam_channel::bounded(1);
        let (end, ended) = crossbeam_channel::bounded(1);
        std::thread::scope(|s| {
            // A failed assertion drops the sender, so that the call ends.
            let end = end;
            s.spawn(|| {
                jobs.calling("ncclAllReduce", || {
                    begun.send(()).unwrap();
                    let _ = ended.recv();
                    order.lock().push("the call has returned");
                    Ok(())
                })
            });
            is_begun.recv().unwrap();
            jobs.bar();
            let (limit, start) = (Duration::from_millis(10), Instant::now());
            jobs.quiet(limit);
            assert!(start.elapsed() >= limit, "the call still runs");
            end.send(()).unwrap();
            jobs.quiet(Duration::from_secs(60));
            assert!(start.elapsed() < Duration::from_secs(30), "the wait ends with the call");
            order.lock().push("aborted");
        });
        assert_eq!(*order.lock(), ["the call has returned", "aborted"]);
        assert!(jobs.calling("ncclAllReduce", || Ok(())).is_err(), "no new call begins");
    }
}
