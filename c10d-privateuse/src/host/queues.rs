//! Queues of operations, and the threads that give the operations to the plugin. From each queue, the plugin gets one
//! batch at a time.
//!
//! All collectives are in one queue. Point-to-point operations have a queue for each direction, peer and tag. So a
//! `recv` that waits inside the plugin does not delay a `send`. A batch is one operation, or several that the plugin
//! gets in one call. A batch is in the queues of all its operations. The plugin gets the batch when it is first in all
//! these queues.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use c10d_core::backend::Request;
use c10d_core::panics::contain;
use c10d_core::sync::{Condvar, Mutex, MutexGuard};
use c10d_core::{OpKind, Result};

use super::timed_call::spawn_detached;
use super::token::Token;

/// The queue of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum QueueKey {
    Collectives,
    Message { op: OpKind, peer: u32, tag: u32 },
}

impl QueueKey {
    pub(super) fn of(request: &Request) -> QueueKey {
        let p = &request.params;
        match request.op {
            OpKind::RecvAnySource => QueueKey::Message { op: request.op, peer: 0, tag: p.tag },
            op if op.is_p2p() => QueueKey::Message { op, peer: p.peer, tag: p.tag },
            _ => QueueKey::Collectives,
        }
    }
}

/// Operations that are given to the plugin together, and their queues.
struct Batch {
    tokens: Vec<Token>,
    queues: Vec<QueueKey>,
    /// The number of queues that have not reached this batch yet.
    behind: usize,
}

#[derive(Default)]
struct Queues {
    /// The queues that have work or are being served, each with the numbers of its batches.
    by_key: HashMap<QueueKey, VecDeque<usize>>,
    batches: HashMap<usize, Batch>,
    next: usize,
    /// The queues that a thread can serve: they have work, no thread is serving them, and their first batch does not
    /// wait for another queue.
    ready: VecDeque<QueueKey>,
    /// The number of threads that wait for work.
    idle: usize,
    closed: bool,
}

pub(super) struct SubmitQueues {
    state: Mutex<Queues>,
    more: Condvar,
    run: fn(&[Token]),
}

/// How long a thread waits for work before it ends.
const PATIENCE: Duration = Duration::from_secs(10);

impl SubmitQueues {
    pub(super) fn new(run: fn(&[Token])) -> Arc<SubmitQueues> {
        Arc::new(SubmitQueues { state: Mutex::new(Queues::default()), more: Condvar::new(), run })
    }

    /// Appends operations that belong together to their queues. If no thread can be started for them, removes them
    /// again and returns an error.
    pub(super) fn push(self: &Arc<Self>, operations: &[(QueueKey, Token)]) -> Result {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let mut batch = Batch { tokens: Vec::new(), queues: Vec::new(), behind: 0 };
        let mut fresh = false;
        for (key, token) in operations {
            batch.tokens.push(*token);
            if batch.queues.contains(key) {
                continue;
            }
            batch.queues.push(*key);
            match state.by_key.get_mut(key) {
                Some(queue) => queue.push_back(number),
                None => {
                    state.by_key.insert(*key, VecDeque::from([number]));
                    state.ready.push_back(*key);
                    fresh = true;
                }
            }
        }
        batch.behind = batch.queues.len();
        state.batches.insert(number, batch);
        if fresh { self.staff(&mut state).inspect_err(|_| state.forget(number)) } else { Ok(()) }
    }

    /// Wakes or starts a thread for the ready queues.
    fn staff(self: &Arc<Self>, state: &mut Queues) -> Result {
        if state.idle >= state.ready.len() {
            self.more.notify_all();
            return Ok(());
        }
        let me = self.clone();
        spawn_detached(move || me.work())
    }

    /// Whether an earlier operation in one of the queues of this operation is being given to the plugin.
    pub(super) fn is_behind(&self, token: Token) -> bool {
        let state = self.state.lock();
        let Some(batch) = state.batches.values().find(|batch| batch.tokens.contains(&token)) else { return false };
        // A batch that is being served is first in its queues, but is not in `batches` any more.
        let first = |key| state.by_key.get(key).and_then(VecDeque::front);
        batch.queues.iter().filter_map(first).any(|number| !state.batches.contains_key(number))
    }

    /// Lets the threads end as soon as they have no work.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.more.notify_all();
    }

    fn work(self: &Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if let Some(key) = state.ready.pop_front() {
                state = self.serve(key, state);
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

    /// Serves a queue until it is empty, or until its first batch has to wait for another queue.
    fn serve<'a>(self: &'a Arc<Self>, key: QueueKey, mut state: MutexGuard<'a, Queues>) -> MutexGuard<'a, Queues> {
        while let Some(number) = state.by_key.get(&key).and_then(|queue| queue.front().copied()) {
            let Some(batch) = state.batches.get_mut(&number) else { break };
            batch.behind -= 1;
            if batch.behind > 0 {
                // The batch waits for another queue. The thread that serves the last of its queues gives the batch to
                // the plugin.
                return state;
            }
            let Some(batch) = state.batches.remove(&number) else { break };
            drop(state);
            // A panic must not stop the queue.
            contain("giving operations to a plugin", || (self.run)(&batch.tokens));
            state = self.state.lock();
            for other in &batch.queues {
                let left = state.by_key.get_mut(other).map_or(0, |queue| {
                    queue.pop_front();
                    queue.len()
                });
                if left == 0 {
                    state.by_key.remove(other);
                } else if *other != key {
                    state.ready.push_back(*other);
                    // If no thread can be started, this thread serves the ready queues next.
                    let _ = self.staff(&mut state);
                }
            }
        }
        state
    }
}

impl Queues {
    /// Removes the batch that was queued last.
    fn forget(&mut self, number: usize) {
        for key in self.batches.remove(&number).map_or(Vec::new(), |batch| batch.queues) {
            let Some(queue) = self.by_key.get_mut(&key) else { continue };
            queue.pop_back();
            if queue.is_empty() {
                self.by_key.remove(&key);
                self.ready.retain(|k| *k != key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_panic_ends_no_queue() {
        static GIVEN: Barrier = Barrier::new(2);
        let queues = SubmitQueues::new(|tokens| {
            assert_ne!(tokens, [1], "on purpose");
            GIVEN.wait();
        });
        queues.push(&[(QueueKey::Collectives, 1)]).unwrap();
        queues.push(&[(QueueKey::Collectives, 2)]).unwrap();
        GIVEN.wait();
        queues.close();
    }

    #[test]
    fn an_operation_waits_only_for_its_own_queues() {
        static BEGUN: Barrier = Barrier::new(2);
        static END: Barrier = Barrier::new(2);
        let queues = SubmitQueues::new(|tokens| {
            if tokens == [1] {
                BEGUN.wait();
                END.wait();
            }
        });
        let message = |tag| QueueKey::Message { op: OpKind::Send, peer: 0, tag };
        queues.push(&[(QueueKey::Collectives, 1)]).unwrap();
        BEGUN.wait();
        queues.push(&[(QueueKey::Collectives, 2)]).unwrap();
        queues.push(&[(QueueKey::Collectives, 3), (message(0), 4)]).unwrap();
        // This is the state after `push`, before a thread serves the queue.
        queues.state.lock().by_key.insert(message(1), VecDeque::from([99]));
        queues.state.lock().batches.insert(99, Batch { tokens: vec![5], queues: vec![message(1)], behind: 1 });
        assert_eq!([1, 2, 3, 4, 5, 6].map(|token| queues.is_behind(token)), [false, true, true, true, false, false]);
        END.wait();
    }
}
