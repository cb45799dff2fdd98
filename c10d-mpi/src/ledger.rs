//! The jobs that a thread of this backend works at, and the keeper that ends them when a call of MPI does not come back:
//! over a network, MPI can wait for a connection to a peer that is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use c10d_core::backend::{Job, JobId, let_go};
use c10d_core::process::spawn;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, OpKind, Outcome, Phase, Result};

use crate::health::Health;
use crate::task::{Gate, Task};

/// The jobs of one rank.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: Mutex<Entries>,
    changed: Condvar,
}

#[derive(Default)]
struct Entries {
    next: u64,
    jobs: BTreeMap<u64, Entry>,
    has_keeper: bool,
    closed: bool,
}

struct Entry {
    job: Job,
    gate: Gate,
}

/// A task whose job the ledger has.
pub(crate) struct Entered {
    /// Its number in the ledger.
    pub(crate) id: u64,
    /// When it must be over.
    pub(crate) deadline: Instant,
    pub(crate) task: Task,
}

impl Ledger {
    /// Enters a job, whose time runs from here at latest; whoever works at it has the task, and uses the job's memory through
    /// the gate alone.
    pub(crate) fn enter(self: &Arc<Self>, job: Job, health: &Arc<Health>) -> Entered {
        let gate = Gate::new();
        let mut entries = self.entries.lock();
        let id = entries.next;
        entries.next += 1;
        let task = Task::of(job.request(), gate.clone());
        let deadline = job.request().deadline();
        entries.jobs.insert(id, Entry { job, gate });
        if !entries.has_keeper {
            let (ledger, health) = (Arc::downgrade(self), health.clone());
            // Without a thread for it, jobs end as MPI's calls do.
            entries.has_keeper = spawn("c10d-mpi-keeper", move || keep(&ledger, &health)).is_ok();
        }
        drop(entries);
        self.changed.notify_all();
        Entered { id, deadline, task }
    }

    /// Ends a job, unless it is ended already.
    pub(crate) fn finish(&self, id: u64, result: Result<Outcome>) {
        if let Some(job) = self.take(id) {
            job.complete_with(result);
        }
    }

    /// Takes a job out, to be ended by the caller.
    pub(crate) fn take(&self, id: u64) -> Option<Job> {
        let entry = self.entries.lock().jobs.remove(&id);
        self.changed.notify_all();
        entry.map(|entry| entry.job)
    }

    /// Whether one of these is not ended yet.
    pub(crate) fn has(&self, ids: &[u64]) -> bool {
        let entries = self.entries.lock();
        ids.iter().any(|id| entries.jobs.contains_key(id))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.lock().jobs.is_empty()
    }

    /// Waits until no job is there. `false`: one still was by the deadline.
    pub(crate) fn drain(&self, deadline: Instant) -> bool {
        let mut entries = self.entries.lock();
        while !entries.jobs.is_empty() {
            if self.changed.wait_until(&mut entries, deadline).timed_out() {
                return entries.jobs.is_empty();
            }
        }
        true
    }

    /// With whom a message is on its way.
    pub(crate) fn peers(&self, rank: u32, size: u32) -> Vec<u32> {
        let mut peers = Vec::new();
        for request in self.entries.lock().jobs.values().map(|entry| entry.job.request()) {
            match request.op {
                OpKind::RecvAnySource => peers.extend((0..size).filter(|r| *r != rank)),
                _ => peers.push(request.params.peer),
            }
        }
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// The number of a job.
    pub(crate) fn id_of(&self, job: JobId) -> Option<u64> {
        self.entries.lock().jobs.iter().find(|(_, entry)| entry.job.id() == job).map(|(id, _)| *id)
    }

    /// Nothing more is entered: the keeper ends with the last job.
    pub(crate) fn close(&self) {
        self.entries.lock().closed = true;
        self.changed.notify_all();
    }

    /// The first time by which a job should be over, with its op and peer where it is late.
    fn overdue(entries: &Entries, now: Instant) -> Option<Error> {
        let late = |entry: &&Entry| {
            let request = entry.job.request();
            request.deadline() + let_go(request.timeout) / 4 <= now
        };
        let request = entries.jobs.values().find(late)?.job.request();
        let what =
            format!("the operation did not end within {:?}, and a call of MPI does not come back", request.timeout);
        let guilty = request.op.is_p2p().then_some(request.params.peer);
        Some(Error::new(ErrorKind::Timeout, what).guilty(guilty).phase(Phase::Transfer))
    }
}

/// Between two looks while jobs are there.
const LOOK: Duration = Duration::from_millis(20);
/// How long whoever works at the jobs may take to end them when the group has failed.
const GRACE: Duration = Duration::from_millis(25);

fn keep(ledger: &Weak<Ledger>, health: &Health) {
    while let Some(ledger) = ledger.upgrade() {
        {
            let mut entries = ledger.entries.lock();
            if entries.jobs.is_empty() {
                if entries.closed {
                    return;
                }
                ledger.changed.wait_for(&mut entries, Duration::from_secs(1));
                continue;
            }
            let late = Ledger::overdue(&entries, Instant::now());
            drop(entries);
            if let Some(late) = late {
                let _ = health.fail(late);
            }
        }
        // Whoever works at the jobs may be inside MPI, and not look.
        let _ = health.check();
        let Some(cause) = health.wait_for_cause(LOOK) else { continue };
        std::thread::sleep(GRACE);
        let left = std::mem::take(&mut ledger.entries.lock().jobs);
        ledger.changed.notify_all();
        for entry in left.into_values() {
            // Behind it, nobody uses the memory.
            entry.gate.close();
            entry.job.complete(Err(cause.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_ends_with_its_ledger() {
        let (ledger, health) = (Arc::new(Ledger::default()), Health::watching(None).unwrap());
        let (weak, watched) = (Arc::downgrade(&ledger), health.clone());
        let keeper = std::thread::spawn(move || keep(&weak, &watched));
        ledger.close();
        keeper.join().unwrap();
        assert!(!ledger.has(&[0]) && ledger.take(0).is_none());
    }
}
