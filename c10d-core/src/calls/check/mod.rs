//! Compares the ranks' calls over the group's store.

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

use post::{Out, left};
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

/// The peers are asked again after this many collectives. By then the answers to the questions before have arrived, so
/// a disagreement is known by the 8th collective.
const ASK_EVERY: u32 = 4;
/// How many calls a rank remembers besides those that are still to be compared.
const RECENT: usize = 64;
/// How long a rank waits for an answer that it needs before it goes on or leaves, once for each silent peer. An answer
/// usually takes a millisecond; on a busy machine it takes hundreds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The function that fails the group.
type Fail = dyn Fn(&Error) + Send + Sync;

/// Compares the calls of one rank with those of its peers, for a backend whose library compares only where it receives,
/// or not at all. A rank that only sends learns of a disagreement by its 8th collective after the other's call, at any
/// op that waits, and when it leaves. Ranks that wait for each other learn of it within a moment. A rank that learns of
/// a disagreement tells all others. In worlds of more than eight ranks, a rank that sends to a root asks only the root,
/// and learns what the root finds.
///
/// The ranks ask and answer through the group's store, on threads of their own. Nobody waits for a late rank: it
/// answers that it has not made the call. If the store is gone, nothing is compared any more.
///
/// If a program ends without leaving the group, its peers are told, and calls that need it fail with its own report.
pub struct CallCheck {
    me: u32,
    world: u32,
    store: Arc<dyn Store>,
    fail: Box<Fail>,
    calls: Mutex<Calls>,
    answers: Condvar,
    /// The channel to the sending thread, from the first collective on.
    out: OnceLock<Option<Sender<Out>>>,
}

impl CallCheck {
    /// Starts the check for a group. `fail` ends the group with an error and may be called on any thread. `None`: the
    /// group has one rank only.
    pub fn new(init: &GroupInit, fail: impl Fn(&Error) + Send + Sync + 'static) -> Option<Arc<CallCheck>> {
        let (me, world) = (init.rank, init.size);
        let store = Arc::new(PrefixStore::new("c10d.calls", init.store.clone()));
        (world > 1).then(|| CallCheck::over(store, me, world, Box::new(fail)))
    }

    fn over(store: Arc<dyn Store>, me: u32, world: u32, fail: Box<Fail>) -> Arc<CallCheck> {
        let (recent, open) = (VecDeque::with_capacity(RECENT), VecDeque::new());
        let doubts = Doubts::new(me, world);
        let (watched, left) = (false, false);
        let calls = Calls {
            begun: 0,
            recent,
            doubts,
            open,
            watched,
            unasked: 0,
            dispute: None,
            parted: None,
            left,
            ended: Vec::new(),
        };
        let (calls, answers, out) = (Mutex::new(calls), Condvar::new(), OnceLock::new());
        let this = Arc::new(CallCheck { me, world, store, fail, calls, answers, out });
        ended::tell(&this);
        // The thread starts now, since a rank that is asked before its first call must answer that it has made none.
        let receiver = this.clone();
        // Without this thread the peers wait in vain once, and then nothing is compared.
        let _ = spawn(move || receiver.receive());
        this
    }

    /// Records a collective before peers can see anything of it. Calls come in the order of their numbers. It does not
    /// wait.
    pub fn begin(self: &Arc<Self>, request: &Request) {
        self.send_from_now_on();
        let (watch, parted) = self.note(request.op, request.params.root, request.fingerprint);
        if let Some(error) = parted {
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

    /// Whether the sending thread must be told to watch open calls, and the disagreement that is known already.
    fn note(&self, op: OpKind, root: u32, fingerprint: Fingerprint) -> (bool, Option<Error>) {
        let mut calls = self.calls.lock();
        let number = calls.begun;
        calls.begun += 1;
        if calls.recent.len() == RECENT {
            calls.recent.pop_front();
        }
        calls.recent.push_back((number, fingerprint));
        let whom = match Whom::after(op, self.me, root, self.world) {
            // The store cannot carry questions from all to all. The root hears from all ranks, and reports what it
            // finds.
            Whom::All if self.world > SMALL_WORLD && root != self.me => Whom::One(root),
            whom => whom,
        };
        if whom != Whom::Nobody {
            calls.doubts.add(&mut vec![Doubt { number, fingerprint, whom, hub: None }]);
        }
        calls.open.push_back(OpenCall { number, fingerprint, since: Instant::now(), asked: 0 });
        let parted = match &calls.dispute {
            Some((by, parted)) if CallId::of(&parted.mine) == CallId::of(&fingerprint) && calls.parted.is_none() => {
                Some(parted.seen_from(self.me, Some(fingerprint), *by))
            }
            _ => None,
        };
        if parted.is_some() {
            calls.parted.clone_from(&parted);
        }
        let parted = parted.or_else(|| calls.missed(self.me));
        (!std::mem::replace(&mut calls.watched, true), parted)
    }

    /// Records that a collective is done, whatever its result.
    pub fn end(&self, request: &Request) {
        self.end_of(&request.fingerprint);
    }

    fn end_of(&self, call: &Fingerprint) {
        let mut calls = self.calls.lock();
        if let Some(at) = calls.open.iter().position(|open| open.fingerprint == *call) {
            calls.open.remove(at);
        }
    }

    /// Called before the library gets a collective, on a thread that may wait briefly. Returns the disagreement by
    /// which the group fails.
    pub fn look(&self, op: OpKind, root: u32) -> Option<Error> {
        let mut calls = self.calls.lock();
        if calls.parted.is_some() || !calls.doubts.open() {
            return calls.parted.clone();
        }
        calls.unasked += 1;
        // A rank that receives in this op waits, perhaps for a rank that made another call before.
        let receives = Whom::after(op, self.me, root, self.world) == Whom::Nobody;
        if !receives && calls.unasked < ASK_EVERY {
            return None;
        }
        calls.unasked = 0;
        calls = self.hear_out(calls, PATIENCE);
        self.ask(&mut calls);
        if receives {
            calls = self.hear_out(calls, PATIENCE);
        }
        self.verdict(calls)
    }

    /// The disagreement by which the group fails, if there is one.
    fn verdict(&self, calls: MutexGuard<'_, Calls>) -> Option<Error> {
        let clash = calls.doubts.clash().filter(|_| calls.parted.is_none());
        drop(calls);
        clash.iter().for_each(|clash| self.clash(clash));
        self.calls.lock().parted.clone()
    }

    /// Asks the peers about the calls in doubt, unless they have been asked.
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

    /// Waits for open answers. A silent rank may have left.
    fn hear_out<'a>(&'a self, mut calls: MutexGuard<'a, Calls>, patience: Duration) -> MutexGuard<'a, Calls> {
        let until = Instant::now() + patience;
        while calls.doubts.is_waiting() && calls.parted.is_none() {
            if !self.answers.wait_until(&mut calls, until).timed_out() {
                continue;
            }
            let silent = calls.doubts.give_up_waiting();
            drop(calls);
            let soon = Instant::now() + PATIENCE;
            for peer in silent {
                self.read_last_word(peer, soon);
            }
            return self.calls.lock();
        }
        calls
    }

    /// Compares the calls in doubt for the last time, and leaves this rank's history for those who ask later. Returns
    /// the disagreement by which the group failed, if it did.
    pub fn leave(&self, deadline: Instant) -> Option<Error> {
        let mut calls = self.calls.lock();
        let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
        if calls.doubts.open() && calls.parted.is_none() && !calls.left && !patience.is_zero() {
            self.ask(&mut calls);
            calls = self.hear_out(calls, patience);
        }
        let parted = self.verdict(calls);
        self.close(true);
        parted
    }

    /// Ends the threads. If nobody called [`leave`](CallCheck::leave), the peers are not told.
    pub fn stop(&self) {
        self.close(false);
    }

    fn close(&self, orderly: bool) {
        let mut calls = self.calls.lock();
        if std::mem::replace(&mut calls.left, true) {
            return;
        }
        let word = Letter::Told(calls.history(0, History::GOODBYE)).to_bytes(self.me);
        drop(calls);
        // Where the store is gone, nobody can ask there.
        let soon = Instant::now() + PATIENCE;
        if orderly {
            contain("a store", || drop(self.store.set(&left(self.me), &word, soon)));
        }
        match self.out.get() {
            Some(Some(out)) => drop(out.send(Out::End)),
            // Wakes the receiving thread, which waits for a letter.
            _ => self.put(self.me, &[], soon),
        }
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> bool {
    crate::process::spawn("c10d calls", run).is_ok()
}
