//! Threads that call `submit`: one at a time for each lane, any number of lanes at once.
//!
//! All collectives are one lane; point-to-point has one for each direction, peer and tag, so that a `recv` that waits
//! inside the plugin does not keep a `send` from being submitted, and order is kept where it means something. A batch
//! stands in every lane that it touches, and goes when it is first in all of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use c10d_core::panics::contain;
use c10d_core::sync::{Condvar, Mutex, MutexGuard};
use c10d_core::{OpKind, Request, Result};

use super::aside::detached;
use super::slots::Token;

/// What must stay in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Collectives,
    Message { op: OpKind, peer: u32, tag: u32 },
}

impl Lane {
    pub(super) fn of(request: &Request) -> Lane {
        let p = &request.params;
        match request.op {
            OpKind::RecvAnySource => Lane::Message { op: request.op, peer: 0, tag: p.tag },
            op if op.is_p2p() => Lane::Message { op, peer: p.peer, tag: p.tag },
            _ => Lane::Collectives,
        }
    }
}

/// Operations that are given to the plugin together, and the lanes that they are in.
struct Batch {
    tokens: Vec<Token>,
    lanes: Vec<Lane>,
    /// Lanes in which something is before it.
    behind: usize,
}

#[derive(Default)]
struct State {
    /// Lanes that have work, or are being worked at; of batches, their number.
    queues: HashMap<Lane, VecDeque<usize>>,
    batches: HashMap<usize, Batch>,
    next: usize,
    /// Of the lanes with work, those that no thread works at, and that wait for no batch.
    ready: VecDeque<Lane>,
    idle: usize,
    closed: bool,
}

pub(super) struct Lanes {
    state: Mutex<State>,
    more: Condvar,
    run: fn(&[Token]),
}

/// A thread without work stays so long.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lanes {
    pub(super) fn new(run: fn(&[Token])) -> Arc<Lanes> {
        Arc::new(Lanes { state: Mutex::new(State::default()), more: Condvar::new(), run })
    }

    /// Puts operations that go together at the end of their lanes. On an error there is no thread for them, and they are
    /// not there.
    pub(super) fn push(self: &Arc<Self>, operations: &[(Lane, Token)]) -> Result {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let mut batch = Batch { tokens: Vec::new(), lanes: Vec::new(), behind: 0 };
        let mut fresh = false;
        for (lane, token) in operations {
            batch.tokens.push(*token);
            if batch.lanes.contains(lane) {
                continue;
            }
            batch.lanes.push(*lane);
            match state.queues.get_mut(lane) {
                Some(queue) => queue.push_back(number),
                None => {
                    state.queues.insert(*lane, VecDeque::from([number]));
                    state.ready.push_back(*lane);
                    fresh = true;
                }
            }
        }
        batch.behind = batch.lanes.len();
        state.batches.insert(number, batch);
        if fresh { self.staff(&mut state).inspect_err(|_| state.forget(number)) } else { Ok(()) }
    }

    /// Sees to it that somebody comes for what is ready.
    fn staff(self: &Arc<Self>, state: &mut State) -> Result {
        if state.idle >= state.ready.len() {
            self.more.notify_all();
            return Ok(());
        }
        let me = self.clone();
        detached(move || me.work())
    }

    /// Whether a thread is at what stands before this operation; not so where no thread came to it yet.
    pub(super) fn is_behind(&self, token: Token) -> bool {
        let state = self.state.lock();
        let Some(batch) = state.batches.values().find(|batch| batch.tokens.contains(&token)) else { return false };
        // Whoever is being worked at is first in its lane, and no longer among those that wait.
        let first = |lane| state.queues.get(lane).and_then(VecDeque::front);
        batch.lanes.iter().filter_map(first).any(|number| !state.batches.contains_key(number))
    }

    /// Lets the threads go when they have nothing to do.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.more.notify_all();
    }

    fn work(self: &Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if let Some(lane) = state.ready.pop_front() {
                state = self.serve(lane, state);
                continue;
            }
            if state.closed {
                return;
            }
            state.idle += 1;
            let timed_out = self.more.wait_for(&mut state, PATIENCE).timed_out();
            state.idle -= 1;
            if timed_out && state.ready.is_empty() {
                return;
            }
        }
    }

    /// Works at a lane until it is empty, or waits for a batch.
    fn serve<'a>(self: &'a Arc<Self>, lane: Lane, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while let Some(number) = state.queues.get(&lane).and_then(|queue| queue.front().copied()) {
            let Some(batch) = state.batches.get_mut(&number) else { break };
            batch.behind -= 1;
            if batch.behind > 0 {
                // Whoever comes to it last, in another lane, takes it, and frees this one.
                return state;
            }
            let Some(batch) = state.batches.remove(&number) else { break };
            drop(state);
            // The lane goes on, whatever becomes of these.
            contain("giving operations to a plugin", || (self.run)(&batch.tokens));
            state = self.state.lock();
            for other in &batch.lanes {
                let left = state.queues.get_mut(other).map_or(0, |queue| {
                    queue.pop_front();
                    queue.len()
                });
                if left == 0 {
                    state.queues.remove(other);
                } else if *other != lane {
                    state.ready.push_back(*other);
                    // Without a further thread it is this one's next.
                    let _ = self.staff(&mut state);
                }
            }
        }
        state
    }
}

impl State {
    /// Takes a batch that was just put in line out again.
    fn forget(&mut self, number: usize) {
        for lane in self.batches.remove(&number).map_or(Vec::new(), |batch| batch.lanes) {
            let Some(queue) = self.queues.get_mut(&lane) else { continue };
            queue.pop_back();
            if queue.is_empty() {
                self.queues.remove(&lane);
                self.ready.retain(|l| *l != lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// What is given to a plugin after a panic still is, in the same lane.
    #[test]
    fn a_panic_ends_no_lane() {
        static GIVEN: Barrier = Barrier::new(2);
        let lanes = Lanes::new(|tokens| {
            assert_ne!(tokens, [1], "on purpose");
            GIVEN.wait();
        });
        lanes.push(&[(Lane::Collectives, 1)]).unwrap();
        lanes.push(&[(Lane::Collectives, 2)]).unwrap();
        GIVEN.wait();
        lanes.close();
    }

    #[test]
    fn only_what_a_thread_is_at_keeps_others_waiting() {
        static BEGUN: Barrier = Barrier::new(2);
        static END: Barrier = Barrier::new(2);
        let lanes = Lanes::new(|tokens| {
            if tokens == [1] {
                BEGUN.wait();
                END.wait();
            }
        });
        let message = |tag| Lane::Message { op: OpKind::Send, peer: 0, tag };
        lanes.push(&[(Lane::Collectives, 1)]).unwrap();
        BEGUN.wait();
        lanes.push(&[(Lane::Collectives, 2)]).unwrap();
        lanes.push(&[(Lane::Collectives, 3), (message(0), 4)]).unwrap();
        // Put in line as `push` does it, before a thread came.
        lanes.state.lock().queues.insert(message(1), VecDeque::from([99]));
        lanes.state.lock().batches.insert(99, Batch { tokens: vec![5], lanes: vec![message(1)], behind: 1 });
        assert_eq!([1, 2, 3, 4, 5, 6].map(|token| lanes.is_behind(token)), [false, true, true, true, false, false]);
        END.wait();
    }
}
