//! Threads that call `submit`: one at a time for each lane, any number of lanes at once.
//!
//! All collectives are one lane; point-to-point has one for each direction, peer and tag, so that a `recv` that waits
//! inside the plugin does not keep a `send` from being submitted, and order is kept where it means something.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use c10d_core::{OpKind, Request, Result};
use parking_lot::{Condvar, Mutex};

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

#[derive(Default)]
struct State {
    /// Lanes that have work, or are being worked at.
    queues: HashMap<Lane, VecDeque<Token>>,
    /// Of these, those that no thread works at.
    ready: VecDeque<Lane>,
    idle: usize,
    closed: bool,
}

pub(super) struct Lanes {
    state: Mutex<State>,
    more: Condvar,
    run: fn(Token),
}

/// A thread without work stays so long.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lanes {
    pub(super) fn new(run: fn(Token)) -> Arc<Lanes> {
        Arc::new(Lanes { state: Mutex::new(State::default()), more: Condvar::new(), run })
    }

    /// Puts an operation at the end of its lane. On an error there is no thread for it, and it is not there.
    pub(super) fn push(self: &Arc<Self>, lane: Lane, token: Token) -> Result {
        let mut state = self.state.lock();
        if let Some(queue) = state.queues.get_mut(&lane) {
            queue.push_back(token);
            return Ok(());
        }
        state.queues.insert(lane, VecDeque::from([token]));
        state.ready.push_back(lane);
        if state.idle >= state.ready.len() {
            self.more.notify_one();
            return Ok(());
        }
        let me = self.clone();
        detached(move || me.work()).inspect_err(|_| {
            state.queues.remove(&lane);
            state.ready.retain(|l| *l != lane);
        })
    }

    /// Lets the threads go when they have nothing to do.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.more.notify_all();
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(lane) = state.ready.pop_front() {
                while let Some(token) = state.queues.get_mut(&lane).and_then(VecDeque::pop_front) {
                    drop(state);
                    (self.run)(token);
                    state = self.state.lock();
                }
                state.queues.remove(&lane);
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
}
