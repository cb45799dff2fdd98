//! The jobs in flight, and the one cause for which they all end early. Nothing here calls CUDA or NCCL, so nothing here
//! hangs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use c10d_core::backend::{Job, let_go};
use c10d_core::panics::caught;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Phase, Result};

/// How long what is in flight may take to end after a peer's program did.
const ENDED: Duration = Duration::from_secs(1);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was told to the device.
    Queued,
    /// The device may be using the job's memory.
    Issued,
}

struct Slot {
    job: Job,
    stage: Stage,
    deadline: Instant,
    /// The rank whose fingerprint of this call is still to come.
    awaits: Option<u32>,
    /// The other rank of a message.
    peer: Option<u32>,
    /// The device is through with it.
    passed: bool,
}

#[derive(Default)]
struct Jobs {
    slots: BTreeMap<u64, Slot>,
    next: u64,
    failed: Option<Error>,
    /// When the deadline watch looks again by itself.
    wakes: Option<Instant>,
    /// The backend is gone, or was shut down.
    closed: bool,
    /// The device's thread is through.
    over: bool,
    /// A peer's program has ended without leaving: the cause for what is asked of this rank from now on.
    ended: Option<Error>,
}

/// What the device's thread is inside of.
#[derive(Default)]
struct Calling {
    what: Option<(&'static str, Instant)>,
    /// The communicators are being given up: no new call.
    barred: bool,
}

#[derive(Default)]
pub(crate) struct JobTable {
    /// Whether a collective that this rank refuses ends the group: nobody compares the ranks' calls, so the others' would
    /// meet a later one of this rank, unseen.
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

    /// Takes a job in; gives its number, or ends the job where the backend has failed. It is over when the device is
    /// through with it and the fingerprint of rank `awaits` was heard.
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

    /// The device's thread is about to use the job's memory; `false`: the job is ended already.
    pub(crate) fn issue(&self, id: u64) -> bool {
        let mut jobs = self.jobs.lock();
        if jobs.failed.is_some() {
            return false;
        }
        jobs.slots.get_mut(&id).map(|slot| slot.stage = Stage::Issued).is_some()
    }

    /// Ends a job, if nobody else did.
    pub(crate) fn finish(&self, id: u64, result: Result) {
        let mut jobs = self.jobs.lock();
        // What has failed is ended by the deadline watch, in one way for all.
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

    /// Ends a job that is not told to the library.
    pub(crate) fn refuse(&self, id: u64, mut error: Error) {
        let collective = self.jobs.lock().slots.get(&id).is_some_and(|slot| slot.peer.is_none());
        if self.strict && collective {
            error.report_mut().what.push_str("; the ranks' calls are not compared in this group, so it has failed");
            self.fail(error);
        } else {
            self.finish(id, Err(error));
        }
    }

    /// The fingerprint that a job awaited agrees with it.
    pub(crate) fn checked(&self, id: u64) {
        let passed = self.jobs.lock().slots.get_mut(&id).is_some_and(|slot| {
            slot.awaits = None;
            slot.passed
        });
        if passed {
            self.finish(id, Ok(()));
        }
    }

    /// Fails everything in flight and to come; the first cause wins.
    pub(crate) fn fail(&self, cause: Error) {
        let mut jobs = self.jobs.lock();
        if jobs.failed.is_none() {
            jobs.failed = Some(cause);
            self.changed.notify_all();
        }
    }

    /// A peer's program has ended without leaving. What is in flight has a moment to end all the same, since the peer may
    /// have done its part; else it fails for this cause, and what comes later does.
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

    /// Waits until nothing is in flight. What has failed is not waited for: it ends by itself.
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

    /// How long the job in flight with the first deadline has left.
    pub(crate) fn left(&self) -> Option<Duration> {
        let first = self.jobs.lock().slots.values().map(|s| s.deadline).min();
        first.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits until somebody fails it, but no longer than this.
    pub(crate) fn wait_for_failure(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut jobs = self.jobs.lock();
        while jobs.failed.is_none() && !self.changed.wait_until(&mut jobs, until).timed_out() {}
    }

    /// No more jobs.
    pub(crate) fn close(&self) {
        self.jobs.lock().closed = true;
        self.changed.notify_all();
    }

    /// The device's thread is through.
    pub(crate) fn over(&self) {
        self.jobs.lock().over = true;
        self.changed.notify_all();
    }

    /// Waits until the device's thread is through.
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

    /// Waits until something has failed: by its own cause, or because a job's time is over. `None`: closed and through.
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
                let absent = awaits.map_or(String::new(), |r| format!(", and rank {r} has not come to it"));
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

    /// Everything in flight, taken from the job table; and how long it may still be held.
    pub(crate) fn take_all(&self) -> Vec<(Job, Stage)> {
        let slots = std::mem::take(&mut self.jobs.lock().slots);
        slots.into_values().map(|s| (s.job, s.stage)).collect()
    }

    /// The shortest time for which a job in flight may still be held after a failure.
    pub(crate) fn grace(&self) -> Duration {
        let jobs = self.jobs.lock();
        let least = jobs.slots.values().map(|s| let_go(s.job.request().timeout)).min();
        least.unwrap_or(Duration::from_millis(100))
    }

    /// Runs a call of a library that may not come back; not at all if the communicators are being given up.
    pub(crate) fn calling<T>(&self, what: &'static str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        {
            let mut calling = self.calling.lock();
            if calling.barred {
                return Err(self.failure().unwrap_or_else(closed));
            }
            calling.what = Some((what, Instant::now()));
        }
        // A store's call is foreign code.
        let result = caught(call)
            .unwrap_or_else(|words| Err(Error::new(ErrorKind::Internal, format!("{what} panicked: {words}"))));
        self.calling.lock().what = None;
        self.called.notify_all();
        result
    }

    /// Lets no new call begin.
    pub(crate) fn bar(&self) {
        self.calling.lock().barred = true;
    }

    /// Waits for the call that runs, but no longer than this.
    pub(crate) fn quiet(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut calling = self.calling.lock();
        while calling.what.is_some() && !self.called.wait_until(&mut calling, until).timed_out() {}
    }

    /// Which call the device's thread is inside of, in words that go on a sentence.
    pub(crate) fn inside(&self) -> String {
        match self.calling.lock().what {
            Some((what, since)) => format!(", inside {what} for {:.1?}", since.elapsed()),
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

    /// A store is foreign code.
    #[test]
    fn a_call_that_panics_is_an_error() {
        let jobs = JobTable::default();
        let e = jobs.calling("the store", || -> Result { panic!("a store's panic") }).unwrap_err();
        assert_eq!(*e.kind(), ErrorKind::Internal);
        assert!(e.to_string().contains("the store panicked: a store's panic"), "{e}");
        assert_eq!(jobs.inside(), "", "it is back");
    }

    #[test]
    fn a_call_that_runs_is_waited_for() {
        let (jobs, order) = (JobTable::default(), Mutex::new(Vec::new()));
        let (begun, is_begun) = crossbeam_channel::bounded(1);
        std::thread::scope(|s| {
            s.spawn(|| {
                jobs.calling("ncclAllReduce", || {
                    begun.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(100));
                    order.lock().push("the call is back");
                    Ok(())
                })
            });
            is_begun.recv().unwrap();
            jobs.bar();
            jobs.quiet(Duration::from_secs(60));
            order.lock().push("aborted");
        });
        assert_eq!(*order.lock(), ["the call is back", "aborted"]);
        assert!(jobs.calling("ncclAllReduce", || Ok(())).is_err(), "no new one begins");
    }
}
