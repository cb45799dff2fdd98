//! Point-to-point messages. The headers from one rank arrive in the order in which that rank sent them. This module
//! matches headers with receives, by sender and tag. The data of a long message follow its header in pieces.

mod endpoint;
mod incoming;
mod outgoing;
mod posted;
mod transfers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Caller, Job, JobId};
use c10d_core::panics::caught;
use c10d_core::process::spawn;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, OpKind, Phase, Result};

use crate::health::Health;
use crate::ledger::{Entered, Ledger};
use crate::mpi::{Comm, Mpi};
use crate::pause::Pause;
use endpoint::Endpoint;
use posted::{Ended, Posted};
use transfers::Transfers;

/// How long [`Messages::take_back`] waits for the lock of the transfers, which a thread may hold during a call of MPI.
const SOON: Duration = Duration::from_millis(50);

/// The point-to-point messages of one rank of a group.
pub(crate) struct Messages {
    endpoint: Endpoint,
    /// Whether only the backend's thread moves messages, never the thread of a caller that waits.
    own_thread: bool,
    crowded: bool,
    ledger: Arc<Ledger>,
    inbox: Mutex<Inbox>,
    /// Notified when jobs are posted, and by `close`.
    news: Condvar,
    /// The messages in transfer. The lock is held during calls of MPI.
    transfers: Mutex<Transfers>,
}

/// The jobs that are posted but not begun, and what the backend's thread of messages must know.
#[derive(Default)]
struct Inbox {
    posted: Vec<Posted>,
    /// The number of unfinished jobs that are not watched (see [`Posted::watched`]). The backend's thread moves
    /// messages as long as there are any.
    unwatched: usize,
    has_thread: bool,
    closed: bool,
}

impl Messages {
    pub(crate) fn new(
        (mpi, comm): (Mpi, Comm),
        (rank, size): (u32, u32),
        health: Arc<Health>,
        (own_thread, crowded): (bool, bool),
    ) -> Messages {
        let (ledger, inbox, news, transfers) = (Arc::default(), Mutex::default(), Condvar::default(), Mutex::default());
        let endpoint = Endpoint { mpi, comm, rank, size, health };
        Messages { endpoint, own_thread, crowded, ledger, inbox, news, transfers }
    }

    fn health(&self) -> &Arc<Health> {
        &self.endpoint.health
    }

    /// Accepts sends and receives. All are begun before any is waited for, because a peer may send only after it has
    /// received. If the caller waits for all of these jobs, and threads of callers may move messages, this function
    /// returns only when the jobs are done.
    pub(crate) fn submit(self: &Arc<Self>, jobs: Vec<Job>) {
        if let Err(cause) = self.health().begin() {
            return jobs.into_iter().for_each(|job| job.complete(Err(cause.clone())));
        }
        let watched = !self.own_thread && jobs.iter().all(|job| job.request().caller == Caller::Waits);
        let mut ids = Vec::with_capacity(jobs.len());
        {
            let mut inbox = self.inbox.lock();
            for job in jobs {
                let Entered { id, deadline, task } = self.ledger.enter(job, self.health());
                ids.push(id);
                inbox.posted.push(Posted { id, deadline, task, watched });
                inbox.unwatched += usize::from(!watched);
            }
            if !watched && !inbox.has_thread {
                let this = self.clone();
                match spawn("c10d-mpi-messages", move || this.serve()) {
                    Ok(()) => inbox.has_thread = true,
                    // The ledger's keeper thread completes the jobs, since the group has failed.
                    Err(e) => drop(self.health().fail(e)),
                }
            }
        }
        self.news.notify_one();
        if watched {
            self.look_after(&ids);
        }
    }

    fn begin(&self, transfers: &mut Transfers) -> Result {
        let posted = std::mem::take(&mut self.inbox.lock().posted);
        transfers.begin(posted, &self.endpoint)
    }

    /// Moves all data that can move. Adds finished jobs to `over`. Returns whether anything moved.
    fn poll(&self, transfers: &mut Transfers, over: &mut Vec<Ended>) -> bool {
        let health = self.health();
        let begun = self.begin(transfers);
        let moved = begun.and_then(|()| health.check()).and_then(|()| transfers.advance(&self.endpoint, over));
        moved.unwrap_or_else(|e| {
            // MPI's error after a peer's death does not name the peer. The side channel reports the death a moment
            // later, so this thread waits for that report.
            if *e.kind() == ErrorKind::Internal && health.cause().is_none() {
                health.wait_for_cause(Duration::from_secs(1));
            }
            transfers.end_all(&health.fail(e), over);
            true
        })
    }

    /// Fails the group if the deadline of a job has passed.
    fn expire(&self, transfers: &mut Transfers, now: Instant, over: &mut Vec<Ended>) {
        let late = transfers.open().filter(|posted| posted.deadline <= now).min_by_key(|posted| posted.deadline);
        let Some(Posted { task, .. }) = late else { return };
        let guilty: Vec<u32> = match task.op {
            OpKind::RecvAnySource => (0..self.endpoint.size).filter(|r| *r != self.endpoint.rank).collect(),
            _ => vec![task.params.peer],
        };
        let what = match task.op {
            OpKind::Send => "the rank did not receive the message",
            _ => "the message did not arrive completely",
        };
        let what = format!("{what} within {:?} (tag {})", task.timeout, task.params.tag);
        let error = Error::new(ErrorKind::Timeout, what).guilty(guilty).phase(Phase::Transfer);
        transfers.end_all(&self.health().fail(error), over);
    }

    /// Moves all data that can move. If nothing moved, waits briefly and checks the deadlines.
    fn look(&self, pause: &mut Pause) {
        let mut over = Vec::new();
        let moved = self.poll(&mut self.transfers.lock(), &mut over);
        if moved || !over.is_empty() {
            pause.reset();
            return self.complete(over);
        }
        if let Some(now) = pause.wait() {
            self.expire(&mut self.transfers.lock(), now, &mut over);
            self.complete(over);
        }
    }

    fn complete(&self, over: Vec<Ended>) {
        for Ended { id, watched, result } in over {
            if !watched {
                self.inbox.lock().unwatched -= 1;
            }
            self.ledger.finish(id, result);
        }
    }

    /// Moves messages until these jobs are done.
    fn look_after(&self, ids: &[u64]) {
        let mut pause = Pause::new(self.crowded);
        while self.ledger.has(ids) {
            self.look(&mut pause);
        }
    }

    /// Runs the backend's thread, which moves messages while there are jobs that are not watched (see
    /// [`Posted::watched`]).
    fn serve(self: Arc<Self>) {
        let served = caught(|| {
            let mut pause = Pause::new(self.crowded);
            loop {
                {
                    let mut inbox = self.inbox.lock();
                    while inbox.unwatched == 0 {
                        if inbox.closed {
                            return;
                        }
                        self.news.wait(&mut inbox);
                        pause.reset();
                    }
                }
                self.look(&mut pause);
            }
        });
        if let Err(words) = served {
            // The ledger's keeper thread completes the jobs, since the group has failed.
            let what = format!("the thread of messages panicked: {words}");
            let _ = self.health().fail(Error::new(ErrorKind::Internal, what));
        }
    }

    /// Cancels `jobs` if every one of them is a receive that no message was matched with. Otherwise cancels none.
    /// Returns the cancelled jobs, which the caller must complete.
    pub(crate) fn take_back(&self, jobs: &[JobId]) -> Vec<Job> {
        let ids: Option<Vec<u64>> = jobs.iter().map(|job| self.ledger.id_of(*job)).collect();
        // If this thread does not get the lock within `SOON`, another thread is blocked in a call of MPI. Nothing is
        // cancelled then.
        let (Some(ids), Some(mut transfers)) = (ids, self.transfers.try_lock_for(SOON)) else { return Vec::new() };
        if self.begin(&mut transfers).is_err() {
            return Vec::new();
        }
        let taken = transfers.take_waiting(&ids);
        drop(transfers);
        self.inbox.lock().unwatched -= taken.iter().filter(|posted| !posted.watched).count();
        taken.iter().filter_map(|posted| self.ledger.take(posted.id)).collect()
    }

    /// Waits until all jobs are finished. If some are unfinished at the deadline, returns their peers as an error.
    pub(crate) fn settle(&self, deadline: Instant) -> std::result::Result<(), Vec<u32>> {
        let mut pause = Pause::new(true);
        while !self.ledger.is_empty() {
            if self.own_thread {
                std::thread::sleep(Duration::from_micros(200));
            } else {
                self.look(&mut pause);
            }
            if Instant::now() >= deadline {
                let peers = self.ledger.peers(self.endpoint.rank, self.endpoint.size);
                return if peers.is_empty() { Ok(()) } else { Err(peers) };
            }
        }
        Ok(())
    }

    /// Closes the messages: no further jobs will be posted.
    pub(crate) fn close(&self) {
        self.inbox.lock().closed = true;
        self.ledger.close();
        self.news.notify_one();
    }
}
