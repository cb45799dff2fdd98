//! The backend: takes jobs and sees that each is run, on the caller's thread wherever that may be.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use c10d_core::{Backend, Caller, Capabilities, DType, Error, GroupInit, Job, JobId, OpKind, ReduceOp, Result};
use parking_lot::Mutex;

use crate::collectives::Collectives;
use crate::exec::Executor;
use crate::layout::Layout;
use crate::mesh::{Health, Membership, Mesh, Transport, Wiring};
use crate::p2p::Messages;
use crate::pause::Pause;
use crate::queue::{Queue, Runner};
use crate::schedule::Place;
use crate::schedule::select::{Fabric, exact, select};
use crate::shm::Doorbell;

/// One rank of one group.
pub(crate) struct GlooLike(Arc<Rank>);

/// What the threads of one rank share.
struct Rank {
    health: Arc<Health>,
    /// Given up first, so that peers hear the goodbye before their links break.
    membership: Mutex<Option<Membership>>,
    collectives: Mutex<Collectives>,
    queue: Queue,
    messages: Arc<Messages>,
    world: u32,
    fabric: Fabric,
    sent: AtomicU64,
}

impl GlooLike {
    /// Connects this rank to the others.
    pub(crate) fn connect(init: &GroupInit, transport: Transport) -> Result<GlooLike> {
        let mesh = Mesh::connect(Wiring {
            group: init.group.clone(),
            rank: init.rank,
            size: init.size,
            session: init.session,
            store: init.store.clone(),
            transport,
            deadline: init.deadline,
        })?;
        let Mesh { membership, collective, p2p, topology, segment, local_ranks, health } = mesh;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let crowded = local_ranks.len() > cores;
        let pause = Pause::new(crowded, segment.clone().map(Doorbell::new));
        let me = Place { world: init.size, rank: init.rank };
        let fabric = Fabric::of(&topology);
        let executor = Executor::new(init.rank, collective, health.clone(), pause.with_room(init.size as usize));
        let layout = Layout::new(me, fabric, topology.hosts);
        let messages = Arc::new(Messages::new(p2p, health.clone(), segment, crowded)?);
        let asked = Arc::downgrade(&messages);
        health.ask_messages(Box::new(move || asked.upgrade()?.waits()));
        Ok(GlooLike(Arc::new(Rank {
            health,
            membership: Mutex::new(Some(membership)),
            collectives: Mutex::new(Collectives::new(executor, layout)),
            queue: Queue::default(),
            messages,
            world: init.size,
            fabric,
            sent: AtomicU64::new(0),
        })))
    }
}

// SAFETY: 1. Spans are used by `Collectives::run` and `Messages`, which are through with them before the job is
// completed. 2. Both watch the job's deadline and the group's health in slices of at most 10 ms; `abort` takes only the
// lock of the health, under which no job is completed.
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
            let result = self.0.run(&job);
            job.complete(result);
        } else {
            self.0.queue.push(job, &self.0);
        }
    }

    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        Ok(self.0.messages.take_back(jobs))
    }

    fn abort(&self, cause: &Error) {
        self.0.health.fail(cause.clone());
    }

    fn refused(&self, op: OpKind, error: &Error) {
        self.0.health.refused(op, error);
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        let drained = self.0.queue.drain(deadline).and_then(|()| self.0.messages.drain(deadline));
        drop(self.0.membership.lock().take());
        drained
    }

    fn bytes_sent(&self) -> Option<u64> {
        Some(self.0.sent.load(Ordering::Relaxed))
    }

    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<&'static str> {
        if op.is_p2p() {
            return None;
        }
        let exact = op.reduces() && exact(dtype, reduce);
        Some(select(op, self.0.world, bytes, self.0.fabric, exact).name())
    }
}

impl Drop for GlooLike {
    fn drop(&mut self) {
        // What was started is still run; the last thread to leave says goodbye.
        self.0.queue.close();
        self.0.messages.close();
    }
}

impl Runner for Rank {
    fn queue(&self) -> &Queue {
        &self.queue
    }

    fn run(&self, job: &Job) -> Result {
        let request = job.request();
        // What waits in line must not wait beyond its own deadline, whatever runs before it.
        let deadline = || self.queue.earliest().map_or(request.deadline(), |line| line.min(request.deadline()));
        let mut collectives = self.collectives.lock();
        let result = collectives.run(request, &deadline);
        self.sent.store(collectives.sent(), Ordering::Relaxed);
        result
    }

    fn fail(&self, error: Error) -> Error {
        self.health.fail(error)
    }
}
