//! Compares the ranks' calls through the group's store.

mod ended;
mod learn;
mod post;
mod record;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use post::{Out, SOON, left};
use record::{Calls, OpenCall};
use watch::SMALL_WORLD;

use super::letter::Letter;
use super::{CallId, Doubt, Doubts, History, Whom};
use crate::Error;
use crate::backend::{Fingerprint, GroupInit, Request};
use crate::catalog::OpKind;
use crate::panics::contain;
use crate::store::{PrefixStore, Store};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The number of collectives between two questions to the peers. When the rank asks again, the previous answer has
/// usually arrived, so a disagreement is found by the 8th collective.
const ASK_EVERY: u32 = 4;
/// The number of recent calls that a rank remembers, besides the calls in doubt.
const RECENT: usize = 64;
/// How long a rank waits for answers before it continues or leaves. For a peer that does not answer, the rank waits
/// only once.
const PATIENCE: Duration = Duration::from_secs(1);

/// The function that fails the group.
type Fail = dyn Fn(&Error) + Send + Sync;

/// Compares the calls of one rank with those of its peers, for a backend whose library compares calls only on ranks
/// that receive, or compares no calls.
///
/// A rank that only sends finds a disagreement at the latest at its 8th collective after the peer made the different
/// call. It finds the disagreement earlier if it makes an op in which it receives, or if it leaves. If ranks wait for
/// each other in different calls, they find the disagreement within about a second. A rank that finds a disagreement
/// reports it to all others. In groups of more than eight ranks, a rank that sends to a root asks only the root.
///
/// The ranks ask and answer through the group's store, on separate threads. A rank that is asked about a call that it
/// has not made yet says so at once. If the store does not answer any more, no calls are compared.
///
/// If a rank's program ends before the rank has left the group, the rank tells its peers. Calls that need this rank
/// then fail with an error that says that its program ended.
pub struct CallCheck {
    me: u32,
    world: u32,
    store: Arc<dyn Store>,
    fail: Box<Fail>,
    calls: Mutex<Calls>,
    answers: Condvar,
    /// The channel to the sending thread, which is started at the first collective. The cell contains `None` if the
    /// thread could not be started.
    out: OnceLock<Option<Sender<Out>>>,
}

impl CallCheck {
    /// Starts the check for a group. `fail` must end the group with an error, and may be called on any thread. Returns
    /// `None` if the group has only one rank.
    pub fn new(init: &GroupInit, fail: impl Fn(&Error) + Send + Sync + 'static) -> Option<Arc<CallCheck>> {
        let (me, world) = (init.rank, init.size);
        let store = Arc::new(PrefixStore::new("c10d.calls", init.store.clone()));
        (world > 1).then(|| CallCheck::over(store, me, world, Box::new(fail)))
    }

    fn over(store: Arc<dyn Store>, me: u32, world: u32, fail: Box<Fail>) -> Arc<CallCheck> {
        let (recent, open) = (VecDeque::with_capacity(RECENT), VecDeque::new());
        let doubts = Doubts::new(me, world);
        let (watched, left, delivered) = (false, false, false);
        let calls = Calls {
            begun: 0,
            recent,
            doubts,
            open,
            watched,
            unasked: 0,
            dispute: None,
            disagreement: None,
            left,
            delivered,
            ended: Vec::new(),
        };
        let (calls, answers, out) = (Mutex::new(calls), Condvar::new(), OnceLock::new());
        let this = Arc::new(CallCheck { me, world, store, fail, calls, answers, out });
        ended::register(&this);
        // The receiving thread starts now, since a rank that is asked before its first call must answer that it has not
        // made the call.
        let receiver = this.clone();
        // If the thread cannot be started, the peers wait once for this rank's answer, and do not compare calls with
        // it.
        let _ = spawn(move || receiver.receive());
        this
    }

    /// Records a collective, before it is given to the library. Calls must be recorded in the order of their numbers.
    /// `begin` does not wait.
    pub fn begin(self: &Arc<Self>, request: &Request) {
        self.send_from_now_on();
        let (watch, disagreement) = self.note(request.op, request.params.root, request.fingerprint);
        if let Some(error) = disagreement {
            (self.fail)(&error);
        }
        if watch {
            self.send(Out::Watch);
        }
    }

    fn send_from_now_on(self: &Arc<Self>) {
        self.out.get_or_init(|| {
            let (out, letters) = channel();
            let this = self.clone();
            spawn(move || this.deliver(letters)).then_some(out)
        });
    }

    /// Records a call. Returns whether the sending thread must be told to watch the open calls, and the error with
    /// which the group fails, if that error is already known.
    fn note(&self, op: OpKind, root: u32, fingerprint: Fingerprint) -> (bool, Option<Error>) {
        let mut calls = self.calls.lock();
        let number = calls.begun;
        calls.begun += 1;
        if calls.recent.len() == RECENT {
            calls.recent.pop_front();
        }
        calls.recent.push_back((number, fingerprint));
        let whom = match Whom::after(op, self.me, root, self.world) {
            // The store would be too slow for questions from all ranks to all ranks.
            Whom::All if self.world > SMALL_WORLD && root != self.me => Whom::One(root),
            whom => whom,
        };
        if whom != Whom::Nobody {
            calls.doubts.add(&mut vec![Doubt { number, fingerprint, whom, hub: None }]);
        }
        calls.open.push_back(OpenCall { number, fingerprint, since: Instant::now(), asked: 0 });
        let disagreement = match &calls.dispute {
            Some((by, disagreement))
                if CallId::of(&disagreement.mine) == CallId::of(&fingerprint) && calls.disagreement.is_none() =>
            {
                Some(disagreement.seen_from(self.me, Some(fingerprint), *by))
            }
            _ => None,
        };
        if disagreement.is_some() {
            calls.disagreement.clone_from(&disagreement);
        }
        let disagreement = disagreement.or_else(|| calls.missed(self.me));
        (!std::mem::replace(&mut calls.watched, true), disagreement)
    }

    /// Records that a collective is done, with any result.
    pub fn end(&self, request: &Request) {
        self.end_of(&request.fingerprint);
    }

    fn end_of(&self, call: &Fingerprint) {
        let mut calls = self.calls.lock();
        if let Some(at) = calls.open.iter().position(|open| open.fingerprint == *call) {
            calls.open.remove(at);
        }
    }

    /// Asks the peers about the calls in doubt, and compares the answers: at each op in which this rank receives, else
    /// at every fourth collective. The backend calls `look` before the library gets a collective, on a thread that may
    /// wait briefly. Returns the disagreement with which the group fails, if one was found.
    pub fn look(&self, op: OpKind, root: u32) -> Option<Error> {
        let mut calls = self.calls.lock();
        if calls.disagreement.is_some() || !calls.doubts.open() {
            return calls.disagreement.clone();
        }
        calls.unasked += 1;
        // A rank that receives in this op may wait for a rank that made a different call before, so it asks now.
        let receives = Whom::after(op, self.me, root, self.world) == Whom::Nobody;
        if !receives && calls.unasked < ASK_EVERY {
            return None;
        }
        calls.unasked = 0;
        calls = self.await_answers(calls, PATIENCE);
        self.ask(&mut calls);
        if receives {
            calls = self.await_answers(calls, PATIENCE);
        }
        self.verdict(calls)
    }

    /// Returns the disagreement with which the group fails, if there is one.
    fn verdict(&self, calls: MutexGuard<'_, Calls>) -> Option<Error> {
        let clash = calls.doubts.clash().filter(|_| calls.disagreement.is_none());
        drop(calls);
        clash.iter().for_each(|clash| self.clash(clash));
        self.calls.lock().disagreement.clone()
    }

    /// Asks each peer about the calls in doubt, unless the peer was asked already and has not answered.
    fn ask(&self, calls: &mut Calls) {
        for peer in 0..self.world {
            match calls.doubts.question(peer, u64::MAX) {
                Ok(Some(from)) => self.send(Out::To(peer, Letter::Ask { from })),
                Ok(None) => {}
                Err(clash) => calls.doubts.found(clash),
            }
        }
        calls.doubts.forget();
    }

    /// Waits for the answers of peers that were asked. A peer that does not answer may have left, so its last message
    /// is read.
    fn await_answers<'a>(&'a self, mut calls: MutexGuard<'a, Calls>, patience: Duration) -> MutexGuard<'a, Calls> {
        let until = Instant::now() + patience;
        while calls.doubts.is_waiting() && calls.disagreement.is_none() {
            if !self.answers.wait_until(&mut calls, until).timed_out() {
                continue;
            }
            let silent = calls.doubts.give_up_waiting();
            drop(calls);
            let soon = Instant::now() + PATIENCE;
            for peer in silent {
                self.read_goodbye(peer, soon);
            }
            return self.calls.lock();
        }
        calls
    }

    /// Compares the calls in doubt for the last time, and writes this rank's own calls into the store, for peers that
    /// compare theirs after this rank left. Returns the disagreement with which the group failed, if there is one.
    pub fn leave(&self, deadline: Instant) -> Option<Error> {
        let mut calls = self.calls.lock();
        let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
        if calls.doubts.open() && calls.disagreement.is_none() && !calls.left && !patience.is_zero() {
            self.ask(&mut calls);
            calls = self.await_answers(calls, patience);
        }
        let disagreement = self.verdict(calls);
        self.close(true);
        disagreement
    }

    /// Ends the threads. `stop` does not tell the peers that this rank left; [`leave`](CallCheck::leave) does.
    pub fn stop(&self) {
        self.close(false);
    }

    fn close(&self, orderly: bool) {
        let mut calls = self.calls.lock();
        if std::mem::replace(&mut calls.left, true) {
            return;
        }
        let word = Letter::Calls(calls.history(0, History::GOODBYE)).to_bytes(self.me);
        drop(calls);
        // An error is ignored: if the store does not answer, the peers cannot read the message.
        let soon = Instant::now() + PATIENCE;
        if orderly {
            contain("a store", || drop(self.store.set(&left(self.me), &word, soon)));
        }
        match self.out.get() {
            Some(Some(out)) => {
                let _ = out.send(Out::End);
                if orderly {
                    self.await_delivery();
                }
            }
            // There is no sending thread. The empty message wakes the receiving thread, which then ends.
            _ => self.put(self.me, &[], soon),
        }
    }

    /// Waits, at most [`SOON`], until the sending thread has delivered all letters: after this rank has left, it cannot
    /// write to the group's store any more.
    fn await_delivery(&self) {
        let until = Instant::now() + SOON;
        let mut calls = self.calls.lock();
        while !calls.delivered && !self.answers.wait_until(&mut calls, until).timed_out() {}
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> bool {
    crate::process::spawn("c10d calls", run).is_ok()
}
