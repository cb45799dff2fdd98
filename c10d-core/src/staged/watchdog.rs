//! The watchdog, which ends ops whose thread does not finish in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Slot;
use super::shared::Shared;
use crate::backend::let_go;

/// How long the watchdog waits before it tries again to give up an op with borrowed memory that the device cannot
/// retain.
const AGAIN: Duration = Duration::from_millis(100);

/// Returns the time at which the watchdog ends an op. It is the op's deadline or the time at which this backend failed,
/// whichever is first, plus a part of [`let_go`]. The part is 7/8 while the op is at the CPU backend, which watches the
/// deadline itself, else 2/8.
fn limit(shared: &Shared, slot: &Slot) -> Instant {
    let (deadline, timeout) = (slot.call.outer.deadline, slot.call.outer.timeout);
    let end = shared.death().map_or(deadline, |(_, at)| deadline.min(*at));
    let eighths = if slot.at_cpu() { 7 } else { 2 };
    end + let_go(timeout) * eighths / 8
}

/// Watches until the backend is closed and no op is in flight.
pub(super) fn watch(shared: &Arc<Shared>) {
    let mut flight = shared.flight.lock();
    loop {
        if flight.closed && flight.slots.is_empty() {
            return;
        }
        let now = Instant::now();
        let next = flight.slots.iter().map(|slot| (limit(shared, slot), slot)).min_by_key(|(limit, _)| *limit);
        match next {
            None => shared.changed.wait(&mut flight),
            Some((limit, _)) if limit > now => drop(shared.changed.wait_until(&mut flight, limit)),
            Some(_) => {
                let late: Vec<Arc<Slot>> =
                    flight.slots.iter().filter(|slot| limit(shared, slot) <= now).cloned().collect();
                drop(flight);
                let mut held = false;
                for slot in late {
                    held |= !end(shared, &slot);
                }
                flight = shared.flight.lock();
                if held {
                    shared.changed.wait_for(&mut flight, AGAIN);
                }
            }
        }
    }
}

/// Gives up an op. Returns `false` if that is not possible (see [`Slot::give_up`]).
fn end(shared: &Shared, slot: &Arc<Slot>) -> bool {
    let error = match shared.death() {
        Some((cause, _)) => cause.clone(),
        None => shared.late(slot),
    };
    shared.die(&error);
    let given_up = slot.give_up(&error);
    if given_up {
        shared.leave(slot);
    }
    given_up
}
