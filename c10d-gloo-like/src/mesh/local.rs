//! Ranks that are threads of one process find each other in a table, without sockets.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use c10d_core::Result;
use c10d_core::process::PerProcess;
use c10d_core::sync::{Condvar, Mutex};

use super::health::Health;
use crate::shm::Segment;

/// What identifies a group in the table: its session and its name.
type Group = ([u8; 16], Arc<str>);

/// A rank that is joining.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) health: Weak<Health>,
    /// The segment, if the rank has one.
    pub(super) segment: Option<Arc<Segment>>,
}

/// The table in which joining ranks look for each other.
#[derive(Default)]
struct JoiningRanks {
    table: Mutex<HashMap<(Group, u32), Seat>>,
    changed: Condvar,
}

static JOINING: PerProcess<JoiningRanks> = PerProcess::new();

/// This rank's entry in the table. Its drop, after the join, removes the entry.
pub(super) struct Presence(Group, u32);

/// Adds this rank to the table. Every joining rank does this, even the only rank of its process.
pub(super) fn sit(session: [u8; 16], group: &Arc<str>, rank: u32, seat: Seat) -> Presence {
    let group = (session, group.clone());
    let joining = JOINING.get();
    joining.table.lock().insert((group.clone(), rank), seat);
    joining.changed.notify_all();
    Presence(group, rank)
}

impl Presence {
    /// Waits for the entry of another rank of this process and returns it. `None` if there is no entry at the deadline.
    /// An error of `check` ends the wait.
    pub(super) fn meet(&self, rank: u32, deadline: Instant, check: impl Fn() -> Result) -> Result<Option<Seat>> {
        let key = (self.0.clone(), rank);
        let joining = JOINING.get();
        let mut table = joining.table.lock();
        loop {
            if let Some(seat) = table.get(&key) {
                return Ok(Some(seat.clone()));
            }
            check()?;
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            joining.changed.wait_until(&mut table, deadline.min(now + Duration::from_millis(100)));
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        JOINING.get().table.lock().remove(&(self.0.clone(), self.1));
    }
}
