//! For calls in which this rank received nothing from a peer: checks whether the peer made the same call. Until then,
//! the call is in doubt.
//!
//! If a peer shares memory with this rank, this rank reads the peer's call log. Other peers send notes of their calls
//! between their ops. If a note does not arrive in time, this rank asks the peer over the control connection, and the
//! peer's watcher thread answers. A peer that has not made the call yet is checked again later.

use std::time::{Duration, Instant};

use c10d_core::sync::MutexGuard;
use c10d_core::{Error, ErrorKind, Result};
use smallvec::SmallVec;

use super::{Health, Path};
use crate::call_log::{CallLog, Entered};
use crate::mesh::control::Frame;
use c10d_core::calls::CallId;
use c10d_core::calls::{Clash, Doubt, Doubts, History, PeerCall, Progress};

/// How long a rank waits for the answer of a silent peer. The rank waits only once for each peer. Live peers answer
/// within a millisecond, on busy machines within tens of milliseconds.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a rank that leaves waits for the answers of its peers.
const FAREWELL: Duration = Duration::from_millis(200);

/// The calls that are still in doubt after a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    None,
    /// Calls that can wait for a later check.
    Young,
    /// Calls about which a peer must be asked now.
    Old,
}

impl Health {
    /// Compares the calls in doubt, including the `fresh` ones, with the calls of the peers. Asks a peer if the peer's
    /// calls are not in shared memory. Returns whether calls are in doubt, or an error if a peer made another call.
    /// With `wait`, first waits for the answers to earlier questions, and compares with `by_hub` (see
    /// [`Health::look`]).
    pub(crate) fn verify(&self, fresh: &mut Vec<Doubt>, wait: bool) -> Result<bool> {
        let mut doubts = self.doubts.lock();
        doubts.add(fresh);
        if wait && doubts.is_waiting() {
            self.await_answers(&mut doubts, PATIENCE);
        }
        let mut ask = SmallVec::<[(u32, u64); 16]>::new();
        let mut clash = doubts.clash();
        for peer in 0..self.paths.len() as u32 {
            match self.question(&mut doubts, peer, u64::MAX, wait) {
                Ok(from) => ask.extend(from.map(|from| (peer, from))),
                Err(found) => clash = clash.or(Some(found)),
            }
        }
        let open = self.conclude_look(doubts, clash)?;
        ask.into_iter().for_each(|(peer, from)| self.inquire(peer, from));
        self.check()?;
        Ok(open)
    }

    /// Whether all peers share memory with this rank and made the same calls up to call `number`, one of this rank's last
    /// 64. `None` if a peer has not made that call yet. `false` if the group has failed on a peer, or if a peer has made
    /// another call, even if a third rank has not made its call yet.
    #[inline]
    pub(crate) fn compare_digests(&self, number: u64) -> Option<bool> {
        let own = self.call_log();
        let mut all = Some(true);
        for peer in (0..self.paths.len() as u32).filter(|rank| *rank != self.rank) {
            let Some(theirs) = self.call_log_of(peer).filter(|log| !log.has_given_up()) else { return Some(false) };
            match own.agrees(theirs, number) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }

    /// Like [`Health::verify`], but asks no peer. `agreed[p]` is how many of the first calls of rank `p` equal this
    /// rank's. Returns [`Open::Old`] if a peer must be asked about a call with a number below `before`.
    pub(crate) fn compare_calls(&self, fresh: &mut Vec<Doubt>, agreed: &[u64], before: u64) -> Result<Open> {
        let mut doubts = self.doubts.lock();
        doubts.add(fresh);
        let mut clash = doubts.clash();
        let mut old = false;
        for peer in 0..self.paths.len() as u32 {
            match self.look(&mut doubts, peer, agreed, true) {
                Ok(Progress::Gone) => old |= doubts.unsettled(peer).is_some_and(|number| number < before),
                Ok(_) => {}
                Err(found) => clash = clash.or(Some(found)),
            }
        }
        let open = self.conclude_look(doubts, clash)?;
        self.check()?;
        Ok(if old {
            Open::Old
        } else if open {
            Open::Young
        } else {
            Open::None
        })
    }

    /// Asks each peer about the calls with numbers below `before` that were not compared with its calls, and waits for
    /// the answers. Returns whether calls are in doubt.
    #[cold]
    pub(crate) fn ask_about(&self, before: u64) -> Result<bool> {
        let mut doubts = self.doubts.lock();
        let mut ask = SmallVec::<[(u32, u64); 16]>::new();
        let mut clash = doubts.clash();
        for peer in 0..self.paths.len() as u32 {
            match self.question(&mut doubts, peer, before, false) {
                Ok(from) => ask.extend(from.map(|from| (peer, from))),
                Err(found) => clash = clash.or(Some(found)),
            }
        }
        self.conclude_look(doubts, clash)?;
        ask.into_iter().for_each(|(peer, from)| self.inquire(peer, from));
        let mut doubts = self.doubts.lock();
        self.await_answers(&mut doubts, PATIENCE);
        let clash = doubts.clash();
        let open = self.conclude_look(doubts, clash)?;
        self.check()?;
        Ok(open)
    }

    /// Ends a check of all peers, and fails the group if the check found a disagreement. Returns whether calls are in
    /// doubt.
    fn conclude_look(&self, mut doubts: MutexGuard<'_, Doubts>, clash: Option<Clash>) -> Result<bool> {
        doubts.forget();
        let open = doubts.open();
        // If the group has failed on a peer, the peer has sent the cause. This rank has sent its part of the call, so
        // its wait for the cause delays no peer.
        if clash.is_none() && (0..self.paths.len() as u32).any(|peer| self.has_given_up(peer)) {
            self.wait_for_cause(&mut doubts);
        }
        drop(doubts);
        clash.map_or(Ok(open), |clash| Err(self.clash(&clash)))
    }

    /// When this rank leaves, compares the calls in doubt for the last time, and waits briefly for answers. Returns the
    /// error if the group has failed because calls differ.
    pub(crate) fn conclude(&self, fresh: &mut Vec<Doubt>, deadline: Instant) -> Option<Error> {
        if !self.failed() && self.verify(fresh, false).is_ok_and(|open| open) {
            let patience = FAREWELL.min(deadline.saturating_duration_since(Instant::now()));
            self.await_answers(&mut self.doubts.lock(), patience);
        }
        self.cause().filter(|error| matches!(error.kind(), ErrorKind::Mismatch { .. }))
    }

    /// Waits at most `patience` for the missing answers.
    #[cold]
    fn await_answers(&self, doubts: &mut MutexGuard<'_, Doubts>, patience: Duration) {
        let until = Instant::now() + patience;
        while !patience.is_zero() && doubts.is_waiting() && !self.failed() {
            if self.answers.wait_until(doubts, until).timed_out() {
                let _ = doubts.give_up_waiting();
            }
        }
    }

    fn has_given_up(&self, peer: u32) -> bool {
        self.call_log_of(peer).is_some_and(CallLog::has_given_up)
    }

    /// Waits briefly for the cause of the failure, which a peer has sent.
    #[cold]
    fn wait_for_cause(&self, doubts: &mut MutexGuard<'_, Doubts>) {
        let until = Instant::now() + PATIENCE;
        while !self.failed() && !self.answers.wait_until(doubts, until).timed_out() {}
    }

    /// Compares the calls in doubt with the known calls of a peer. For `agreed` see [`Health::compare_calls`]. The hub
    /// of a call is the rank that receives from all others (the root of a reduce or gather), and so compares the calls
    /// of all ranks. With `by_hub`, this rank does not ask the peer about a call that has a hub and that is no longer
    /// in the peer's call log. Instead, the call stays in doubt until the hub completes it, which takes less time than
    /// a question.
    fn look(&self, doubts: &mut Doubts, peer: u32, agreed: &[u64], by_hub: bool) -> Result<Progress, Clash> {
        let has_agreed =
            |rank: u32, doubt: &Doubt| agreed.get(rank as usize).is_some_and(|calls| doubt.number < *calls);
        match self.call_log_of(peer) {
            Some(call_log) => doubts.compare(peer, |doubt| match (read(call_log, doubt), doubt.hub) {
                (PeerCall::Gone, Some(hub)) if by_hub && hub != peer => {
                    if self.has_completed(hub, doubt) {
                        PeerCall::Agreed
                    } else {
                        PeerCall::NotYet
                    }
                }
                (known, _) => known,
            }),
            None => doubts.compare(peer, |doubt| {
                let completed = doubt.hub.is_some_and(|hub| has_agreed(hub, doubt) || self.has_completed(hub, doubt));
                if completed || has_agreed(peer, doubt) { PeerCall::Agreed } else { PeerCall::Gone }
            }),
        }
    }

    /// Whether rank `rank` shares memory with this rank and has completed the call.
    fn has_completed(&self, rank: u32, doubt: &Doubt) -> bool {
        self.call_log_of(rank).is_some_and(|call_log| {
            call_log.ended() > doubt.number && read(call_log, doubt) == PeerCall::Call(doubt.fingerprint)
        })
    }

    /// Compares the calls in doubt with the peer's calls in shared memory. Returns the number of the first call about
    /// which the peer must be asked. For `by_hub` see [`Health::look`].
    fn question(&self, doubts: &mut Doubts, peer: u32, before: u64, by_hub: bool) -> Result<Option<u64>, Clash> {
        match self.look(doubts, peer, &[], by_hub)? {
            Progress::Gone => doubts.question(peer, before),
            _ => Ok(None),
        }
    }

    fn inquire(&self, peer: u32, from: u64) {
        match self.path(peer) {
            Some(Path::Away(connection)) => connection.send_bytes(&Frame::ask(from), true),
            Some(Path::Here(there)) => match there.upgrade() {
                Some(there) => self.handle_calls(peer, there.history(from), false),
                // The peer has left, and its last history has arrived.
                None => self.doubts.lock().withdraw(peer),
            },
            None => {}
        }
    }

    /// Returns this rank's calls that are in doubt. No rank disagrees about the remaining calls.
    pub(super) fn goodbye(&self) -> History {
        let calls = self.doubts.lock().since(0).take(History::GOODBYE + 1).collect();
        History::new(self.call_log().begun(), calls, History::GOODBYE)
    }

    /// Returns the calls that this rank remembers, from number `from` on.
    pub(super) fn history(&self, from: u64) -> History {
        let until = self.call_log().begun();
        // The call log is read first: a call in doubt that the log does not contain any more is already among the
        // doubts.
        let mut calls: Vec<_> = self.call_log().since(from).collect();
        calls.extend(self.doubts.lock().since(from).take(History::ANSWER + 1));
        History::new(until, calls, History::ANSWER)
    }

    /// Handles a peer's report of its calls. `last`: the peer leaves.
    pub(super) fn handle_calls(&self, peer: u32, history: History, last: bool) {
        let compared = self.doubts.lock().answer(peer, history, last);
        if let Err(clash) = compared {
            self.clash(&clash);
        }
        self.answers.notify_all();
    }

    fn clash(&self, clash: &Clash) -> Error {
        self.mismatch(clash.peer, &clash.mine, &clash.theirs)
    }
}

/// Reads a peer's call log at the number of a call. If the peer skipped an earlier call of this rank, the call has
/// another number there and is found by its `CallId`.
fn read(call_log: &CallLog, doubt: &Doubt) -> PeerCall {
    let place = CallId::of(&doubt.fingerprint);
    match call_log.entry(doubt.number) {
        Entered::NotYet => PeerCall::NotYet,
        Entered::Call(fingerprint) if CallId::of(&fingerprint) == place => PeerCall::Call(fingerprint),
        Entered::Gone => PeerCall::Gone,
        Entered::Call(_) => match call_log.find(place) {
            Some(fingerprint) => PeerCall::Call(fingerprint),
            None if call_log.position().is_before(place) => PeerCall::NotYet,
            None => PeerCall::Gone,
        },
    }
}

#[cfg(test)]
#[path = "doubt_tests.rs"]
mod tests;
