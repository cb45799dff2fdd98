//! The jobs that threads of this backend work on, and the keeper thread. The keeper completes the jobs if a call of MPI
//! does not return: over a network, MPI can wait for a connection to a dead peer.

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

/// A task whose job is in the ledger.
pub(crate) struct Entered {
    /// The number of the job in the ledger.
    pub(crate) id: u64,
    pub(crate) deadline: Instant,
    pub(crate) task: Task,
}

impl Ledger {
    /// Adds a job. The job's time limit begins to run here, unless it runs already. The thread that works on the job
    /// gets the returned task, and uses the job's memory only through the task's gate.
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
            // If the thread cannot be started, jobs are completed only when the calls of MPI return.
            entries.has_keeper = spawn("c10d-mpi-keeper", move || keep(&ledger, &health)).is_ok();
        }
        drop(entries);
        self.changed.notify_all();
        Entered { id, deadline, task }
    }

    /// Completes a job, unless it is no longer in the ledger.
    pub(crate) fn finish(&self, id: u64, result: Result<Outcome>) {
        if let Some(job) = self.take(id) {
            job.complete_with(result);
        }
    }

    /// Removes a job from the ledger, if it is still there. The caller must complete it.
    pub(crate) fn take(&self, id: u64) -> Option<Job> {
        let entry = self.entries.lock().jobs.remove(&id);
        self.changed.notify_all();
        entry.map(|entry| entry.job)
    }

    /// Returns whether at least one of these jobs is still in the ledger.
    pub(crate) fn has(&self, ids: &[u64]) -> bool {
        let entries = self.entries.lock();
        ids.iter().any(|id| entries.jobs.contains_key(id))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.lock().jobs.is_empty()
    }

    /// Waits until the ledger is empty. Returns `false` if it is not empty at the deadline.
    pub(crate) fn drain(&self, deadline: Instant) -> bool {
        let mut entries = self.entries.lock();
        while !entries.jobs.is_empty() {
            if self.changed.wait_until(&mut entries, deadline).timed_out() {
                return entries.jobs.is_empty();
            }
        }
        true
    }

    /// Returns the peers of the jobs in the ledger, which must all be point-to-point.
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

    /// Returns the number of a job, if the job is in the ledger.
    pub(crate) fn id_of(&self, job: JobId) -> Option<u64> {
        self.entries.lock().jobs.iter().find(|(_, entry)| entry.job.id() == job).map(|(id, _)| *id)
    }

    /// Closes the ledger: the keeper thread ends when there are no more jobs.
    pub(crate) fn close(&self) {
        self.entries.lock().closed = true;
        self.changed.notify_all();
    }

    /// Returns the error for the first overdue job, with its peer, or `None` if no job is overdue. A job is overdue if
    /// a quarter of [`let_go`] has passed since its deadline.
    fn overdue(entries: &Entries, now: Instant) -> Option<Error> {
        let late = |entry: &&Entry| {
            let request = entry.job.request();
            request.deadline() + let_go(request.timeout) / 4 <= now
        };
        let request = entries.jobs.values().find(late)?.job.request();
        let what = format!("the operation did not end within {:?}, and a call of MPI does not return", request.timeout);
        // A receive from any rank waits for no particular rank.
        let has_peer = request.op.is_p2p() && request.op != OpKind::RecvAnySource;
        let guilty = has_peer.then_some(request.params.peer);
        Some(Error::new(ErrorKind::Timeout, what).guilty(guilty).phase(Phase::Transfer))
    }
}

/// The keeper's interval between two checks while there are jobs.
const LOOK: Duration = Duration::from_millis(20);
/// How long the threads that work on jobs may take to complete them after the group has failed. Then the keeper
/// completes the jobs.
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
        // This fails the group if a peer's program has ended. The other threads cannot check this while they are
        // blocked in MPI.
        let _ = health.check();
        let Some(cause) = health.wait_for_cause(LOOK) else { continue };
        std::thread::sleep(GRACE);
        let left = std::mem::take(&mut ledger.entries.lock().jobs);
        ledger.changed.notify_all();
        for entry in left.into_values() {
            // Once the gate is closed, no other thread uses the job's memory.
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
