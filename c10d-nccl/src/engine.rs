//! The thread on which all calls of CUDA and NCCL are made, for one backend.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use c10d_core::device::DeviceBuffer;
use c10d_core::{OpKind, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::boot;
use crate::channel::{Channel, Item, Means, Way};
use crate::nccl::{Communicator, UniqueId};
use crate::task::Task;

/// How long the thread asks without a pause while the device is at work.
const EAGER: Duration = Duration::from_micros(200);
/// The longest pause between two questions.
const PAUSE: Duration = Duration::from_micros(200);

/// What the thread is told.
pub(crate) enum Order {
    Do(Item),
    /// Looks whether something failed.
    Look,
    /// Ends when all that came before is over.
    Close {
        deadline: Instant,
    },
}

/// What the communicator is made from.
pub(crate) enum Origin {
    /// The ids of a new one.
    Ids(Vec<UniqueId>),
    /// A split of another, which is on its way.
    Split(Communicator),
}

pub(crate) struct Engine {
    pub(crate) means: Means,
    pub(crate) rank: u32,
    pub(crate) size: u32,
    pub(crate) timeout: Duration,
    pub(crate) orders: Receiver<Order>,
    /// Told once, when the communicator is ready.
    pub(crate) ready: Option<Sender<()>>,
    /// What barriers reduce.
    pub(crate) token: DeviceBuffer,
}

impl Engine {
    /// Runs until told to close, or until something fails.
    pub(crate) fn run(mut self, origin: Origin) {
        let board = self.means.board.clone();
        if let Err(e) = self.work(origin) {
            board.fail(e);
            // The device may be at it still.
            std::mem::forget(self.token);
        }
        board.over();
    }

    fn work(&mut self, origin: Origin) -> Result {
        let means = &self.means;
        means.board.calling("cuCtxSetCurrent", || means.cuda.enter(means.device))?;
        let mut all = match origin {
            Origin::Ids(ids) => Channel::of_all(means, (self.rank, self.size), &ids)?,
            Origin::Split(comm) => Channel::over(means, (self.rank, self.size), comm)?,
        };
        boot::arrive(&*means.store, self.rank, Instant::now() + self.timeout)?;
        let mut pairs: BTreeMap<Way, Channel> = BTreeMap::new();
        let mut closing = None;
        let mut busy_since = Instant::now();
        loop {
            let mut moved = all.step(means)?;
            if all.is_ready()
                && let Some(ready) = self.ready.take()
            {
                // Whoever made the backend may have given up.
                let _ = ready.send(());
            }
            for channel in pairs.values_mut() {
                moved |= channel.step(means)?;
            }
            let idle = all.is_idle() && pairs.values().all(Channel::is_idle);
            if moved {
                busy_since = Instant::now();
            }
            if let (Some(deadline), true) = (closing, idle) {
                std::mem::take(&mut pairs).into_values().try_for_each(|c| c.close(means, deadline))?;
                return all.close(means, deadline);
            }
            if let Some(cause) = means.board.failure() {
                return Err(cause);
            }
            let Some(order) = self.next(idle, busy_since) else { continue };
            match order {
                Order::Do(Item::Run(task)) if task.op.is_p2p() => {
                    let way = self.way(&task);
                    if let std::collections::btree_map::Entry::Vacant(place) = pairs.entry(way) {
                        let deadline = Instant::now() + self.timeout;
                        place.insert(Channel::of_pair(means, way, self.rank, deadline)?);
                    }
                    if let Some(channel) = pairs.get_mut(&way) {
                        channel.push(Item::Run(task));
                    }
                }
                Order::Do(item) => all.push(item),
                Order::Look => {}
                Order::Close { deadline } => closing = Some(deadline),
            }
        }
    }

    /// The next order: a look while the device is at work, else as soon as there is one.
    fn next(&self, idle: bool, busy_since: Instant) -> Option<Order> {
        // Where nobody is left to give orders, the backend is gone.
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

    fn way(&self, task: &Task) -> Way {
        let peer = task.params.peer;
        if task.op == OpKind::Send { Way { from: self.rank, to: peer } } else { Way { from: peer, to: self.rank } }
    }
}
