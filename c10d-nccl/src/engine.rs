//! The thread that makes all CUDA and NCCL calls of one backend's dense ops.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use c10d_core::panics::caught;
use c10d_core::{Error, ErrorKind, OpKind, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::bootstrap;
use crate::channel::{Channel, ChannelWork, Participants, Resources};
use crate::communicator::Communicator;
use crate::nccl::UniqueId;

/// How long the thread polls without a pause after a poll that found something to do.
const EAGER: Duration = Duration::from_micros(200);
/// The maximum pause between two polls.
const PAUSE: Duration = Duration::from_micros(200);

/// How long the side channel (through which the ranks watch each other) may take to name the peer after NCCL reported
/// that a peer is lost. The survivors can continue only if the error names the peer.
const NAMED: Duration = Duration::from_secs(2);

/// An order to the thread.
pub(crate) enum Order {
    Do(ChannelWork),
    /// Checks whether something failed.
    Look,
    /// Ends the thread when all earlier work is finished.
    Close {
        deadline: Instant,
    },
}

/// How the communicator is made.
pub(crate) enum Origin {
    /// With these ids.
    Ids(Vec<UniqueId>),
    /// NCCL has derived this communicator from another communicator. It may still be connecting.
    Split(Communicator),
    /// At the first op.
    Later,
}

pub(crate) struct Engine {
    pub(crate) resources: Resources,
    pub(crate) rank: u32,
    pub(crate) size: u32,
    pub(crate) timeout: Duration,
    pub(crate) orders: Receiver<Order>,
    /// Gets one message when the communicator is ready.
    pub(crate) ready: Option<Sender<()>>,
}

impl Engine {
    /// Runs until the backend is closed, or until something fails.
    pub(crate) fn run(mut self, origin: Origin) {
        let jobs = self.resources.jobs.clone();
        let worked = caught(|| self.work(origin)).unwrap_or_else(|words| {
            Err(Error::new(ErrorKind::Internal, format!("the thread of the communicators panicked: {words}")))
        });
        if let Err(e) = worked {
            if matches!(e.kind(), ErrorKind::PeerDead { .. }) && e.report().guilty.is_empty() {
                // Wait for the side channel's error, which names the peer.
                let left = jobs.left().map_or(NAMED, |left| left / 2);
                jobs.wait_for_failure(NAMED.min(left));
            }
            jobs.fail(e);
        }
        jobs.over();
    }

    fn work(&mut self, origin: Origin) -> Result {
        let resources = &self.resources;
        resources.jobs.calling("cuCtxSetCurrent", || resources.cuda.enter_own(resources.device))?;
        if resources.cuda.has_kernels().is_ok() {
            // If this fails, each call that needs a CUDA kernel reports it.
            let _ = resources.jobs.calling("cuModuleLoadData", || resources.cuda.load(resources.device));
        }
        let mut channels: BTreeMap<Participants, Channel> = BTreeMap::new();
        match origin {
            Origin::Ids(ids) => {
                channels.insert(Participants::All, Channel::of_all(resources, (self.rank, self.size), &ids)?);
            }
            Origin::Split(comm) => {
                channels.insert(Participants::All, Channel::over(resources, (self.rank, self.size), comm)?);
            }
            Origin::Later => {}
        }
        if resources.dialect.is_native() {
            bootstrap::arrive(&*resources.store, self.rank, Instant::now() + self.timeout)?;
        }
        let mut closing = None;
        let mut busy_since = Instant::now();
        loop {
            let mut moved = false;
            for channel in channels.values_mut() {
                moved |= channel.step(resources)?;
            }
            if channels.get(&Participants::All).is_none_or(Channel::is_ready)
                && let Some(ready) = self.ready.take()
            {
                // The thread that makes the backend may have stopped waiting.
                let _ = ready.send(());
            }
            let idle = channels.values().all(Channel::is_idle);
            if moved {
                busy_since = Instant::now();
            }
            if let (Some(deadline), true) = (closing, idle) {
                return channels.into_values().rev().try_for_each(|c| c.close(resources, deadline));
            }
            if let Some(cause) = resources.jobs.failure() {
                return Err(cause);
            }
            let Some(order) = self.next(idle, busy_since) else { continue };
            match order {
                Order::Do(item) => {
                    let between = self.between(&item);
                    if let Entry::Vacant(place) = channels.entry(between) {
                        let deadline = Instant::now() + self.timeout;
                        place.insert(Channel::meeting(resources, between, (self.rank, self.size), deadline)?);
                    }
                    if let Some(channel) = channels.get_mut(&between) {
                        channel.push(resources, item)?;
                    }
                }
                Order::Look => {}
                Order::Close { deadline } => closing = Some(deadline),
            }
        }
    }

    /// Returns the next order. If the channels have work, this waits only for a short time, and may return `None`.
    fn next(&self, idle: bool, busy_since: Instant) -> Option<Order> {
        // If there is no sender any more, the backend was dropped.
        let gone = || Order::Close { deadline: Instant::now() + self.timeout };
        if idle {
            return Some(self.orders.recv().unwrap_or_else(|_| gone()));
        }
        if let Ok(order) = self.orders.try_recv() {
            return Some(order);
        }
        if busy_since.elapsed() < EAGER {
            std::thread::yield_now();
            return None;
        }
        match self.orders.recv_timeout(PAUSE) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(PAUSE);
                None
            }
        }
    }

    /// Returns the ranks of the communicator that this item needs.
    fn between(&self, item: &ChannelWork) -> Participants {
        let ChannelWork::Run(task) = item else { return Participants::All };
        if !task.op.is_p2p() {
            return Participants::All;
        }
        let peer = task.params.peer;
        let (from, to) = if task.op == OpKind::Send { (self.rank, peer) } else { (peer, self.rank) };
        self.resources
            .dialect
            .pair(from, to)
            .map_or(Participants::All, |(first, second)| Participants::Two { first, second })
    }
}
