//! Checks whether the ranks make the same calls. NCCL does not check this: ranks that make different calls would hang
//! or get wrong data.
//!
//! Each rank sends the fingerprint of a collective to the next rank, and compares the fingerprint from the previous
//! rank with its own, while NCCL runs the collective. The fingerprint of a message goes from its sender to its
//! receiver. Fingerprints go through the side channel, which uses the group's CPU backend. A job is finished when both
//! NCCL and the comparison are done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Compared, Fingerprint, Messages, Request, WorkerQueue};
use c10d_core::panics::caught;
use c10d_core::process::spawn;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, OpKind, Phase, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::jobs::JobTable;
use crate::task::Task;

/// Wakes the thread that calls NCCL, so that it checks whether something failed.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// A call that this rank makes.
struct Issued {
    id: u64,
    fingerprint: Fingerprint,
    timeout: Duration,
}

/// Sends and receives the fingerprints of calls. Threads of their own send to the next rank and receive from the
/// previous one, so that no direction waits for another.
pub(crate) struct Checks {
    side: Messages,
    jobs: Arc<JobTable>,
    wake: Wake,
    /// For collectives: the queue of the thread that sends to the next rank, and the queue of the thread that compares
    /// with the previous rank.
    collectives: (Arc<FingerprintSender>, Sender<Issued>),
    /// For messages: the queues of the threads that send, by receiving rank.
    sent: Mutex<BTreeMap<u32, Arc<FingerprintSender>>>,
    /// For messages: the queues of the threads that receive and compare, by sending rank.
    received: Mutex<BTreeMap<u32, Sender<Issued>>>,
}

impl Checks {
    /// Starts the comparison of collectives.
    pub(crate) fn start(side: &Messages, jobs: &Arc<JobTable>, wake: Wake) -> Result<Checks> {
        let sender = FingerprintSender::new(side, side.next(), Compared::Collective);
        let to_compare = start_comparing(side, side.before(), Compared::Collective, jobs, &wake)?;
        let (sent, received) = (Mutex::default(), Mutex::default());
        let (side, jobs) = (side.clone(), jobs.clone());
        Ok(Checks { side, jobs, wake, collectives: (sender, to_compare), sent, received })
    }

    /// Returns the rank whose fingerprint of this call is compared with this rank's, if there is one.
    pub(crate) fn awaits(&self, request: &Request) -> Option<u32> {
        match request.op {
            OpKind::Send => None,
            OpKind::Recv => Some(request.params.peer),
            _ => Some(self.side.before()),
        }
    }

    /// Called when a job's call is going to be issued. Not called for a rejected call: if the peer rejects the call,
    /// too, it would take the fingerprint for that of this rank's next call.
    pub(crate) fn issued(&self, task: &Task) {
        let issued = || Issued { id: task.id, fingerprint: task.fingerprint, timeout: task.timeout };
        let peer = task.params.peer;
        let done = match task.op {
            OpKind::Send => {
                let make = || FingerprintSender::new(&self.side, peer, Compared::Message);
                self.sent.lock().entry(peer).or_insert_with(make).send(issued())
            }
            OpKind::Recv => self.message_comparison(peer).map(|to_compare| drop(to_compare.send(issued()))),
            _ => {
                // This fails only if the comparing thread has ended. Then the group has failed, or another thread will
                // soon report the failure.
                drop(self.collectives.1.send(issued()));
                self.collectives.0.send(issued())
            }
        };
        if let Err(e) = done {
            self.jobs.fail(e);
        }
    }

    fn message_comparison(&self, peer: u32) -> Result<Sender<Issued>> {
        let mut received = self.received.lock();
        if let Some(to_compare) = received.get(&peer) {
            return Ok(to_compare.clone());
        }
        let made = start_comparing(&self.side, peer, Compared::Message, &self.jobs, &self.wake);
        made.inspect(|to_compare| drop(received.insert(peer, to_compare.clone())))
    }

    /// Waits until the fingerprints of all issued calls are sent. The peers need these fingerprints to end their calls.
    pub(crate) fn all_sent(&self, deadline: Instant) {
        let sent: Vec<Arc<FingerprintSender>> = self.sent.lock().values().cloned().collect();
        // If a fingerprint is not sent in time, the peer that waits for it reports this.
        let _ = [&self.collectives.0].into_iter().chain(&sent).all(|sender| sender.queue.drain(deadline));
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.collectives.0.queue.close();
        self.sent.lock().values().for_each(|sender| sender.queue.close());
    }
}

/// A queue of fingerprints, and the thread that sends them to one rank.
struct FingerprintSender {
    queue: WorkerQueue<Issued>,
    side: Messages,
    to: u32,
    what: Compared,
}

impl FingerprintSender {
    fn new(side: &Messages, to: u32, what: Compared) -> Arc<FingerprintSender> {
        Arc::new(FingerprintSender { queue: WorkerQueue::default(), side: side.clone(), to, what })
    }

    fn send(self: &Arc<FingerprintSender>, issued: Issued) -> Result {
        let this = self.clone();
        self.queue.push(issued, "c10d-nccl-send", move || this.serve()).map_err(|(_, error)| error)
    }

    fn serve(&self) {
        let mut gone = false;
        while let Some(issued) = self.queue.next() {
            // If sending fails, the peer is gone. The side channel reports this.
            gone = gone || !matches!(caught(|| self.one(&issued)), Ok(Ok(())));
        }
    }

    fn one(&self, issued: &Issued) -> Result {
        self.side.send_fingerprint(self.to, self.what, &issued.fingerprint, issued.timeout)
    }
}

fn start_comparing(
    side: &Messages,
    from: u32,
    what: Compared,
    jobs: &Arc<JobTable>,
    wake: &Wake,
) -> Result<Sender<Issued>> {
    let (to_compare, calls) = unbounded();
    let (side, jobs, wake) = (side.clone(), jobs.clone(), wake.clone());
    spawn("c10d-nccl-check", move || {
        let compared = caught(|| compare_all(&side, from, what, &jobs, calls)).unwrap_or_else(|words| {
            Err(Error::new(ErrorKind::Internal, format!("receiving from rank {from} panicked: {words}")))
        });
        if let Err(e) = compared {
            jobs.fail(e);
            wake();
        }
    })?;
    Ok(to_compare)
}

fn compare_all(side: &Messages, from: u32, what: Compared, jobs: &JobTable, calls: Receiver<Issued>) -> Result {
    for Issued { id, fingerprint, timeout } in calls {
        // If no fingerprint arrives, this thread ends without an error: the deadline watch reports a late rank, and the
        // side channel reports a dead rank.
        let Ok(mut theirs) = side.receive_fingerprint(from, what, timeout) else { return Ok(()) };
        if what == Compared::Message {
            // NCCL has no tags, so the tag (in the fingerprint's field `root`) is not compared.
            theirs.root = fingerprint.root;
        }
        if let Some((field, mine, theirs)) = fingerprint.disagreement(&theirs) {
            let words = match what {
                Compared::Collective => "the ranks made different collectives",
                Compared::Message => "the sender and the receiver made different calls for this message",
            };
            let kind = ErrorKind::Mismatch { field, mine, theirs };
            let mut error = Error::new(kind, words).guilty([from]).phase(Phase::Announce);
            if what == Compared::Collective {
                // Later jobs end with the same error. Without this op and number, each job would add its own to the
                // error.
                let report = error.report_mut();
                (report.op, report.seq) = (OpKind::from_code(fingerprint.op), Some(fingerprint.seq.into()));
            }
            return Err(error);
        }
        jobs.checked(id);
    }
    Ok(())
}
