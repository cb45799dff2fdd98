//! The calls of this rank that are in doubt: they must still be compared with the calls of its peers.

use std::collections::VecDeque;

use super::CallId;
use crate::backend::Fingerprint;
use crate::catalog::OpKind;

/// The largest number of calls that are kept for comparison with peers that have not made them yet. If there are more
/// calls, the oldest are dropped without a comparison.
const MOST: usize = 64 << 10;

/// The ranks whose calls must be compared with a call of this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// None: the rank compared the fingerprints during the call.
    Nobody,
    /// All other ranks.
    All,
    /// The rank with this number.
    One(u32),
}

impl Whom {
    /// Returns the ranks with whose calls rank `me` must still compare its call of this op after the call has run.
    /// `world` is the number of ranks.
    #[inline]
    pub fn after(op: OpKind, me: u32, root: u32, world: u32) -> Whom {
        if !op.is_rooted() || world == 1 {
            return Whom::Nobody;
        }
        match op {
            OpKind::Broadcast | OpKind::Scatter if me != root => Whom::Nobody,
            OpKind::Reduce | OpKind::Gather if me == root => Whom::Nobody,
            _ => Whom::All,
        }
    }
}

/// Returns the op's hub: the rank that receives from all others in this op (the root of a reduce or gather), if there
/// is one.
#[inline]
pub fn hub(op: OpKind, root: u32) -> Option<u32> {
    matches!(op, OpKind::Reduce | OpKind::Gather).then_some(root)
}

/// A call of this rank that is in doubt.
#[derive(Clone, Copy, Debug)]
pub struct Doubt {
    /// The number of the call among the rank's calls.
    pub number: u64,
    /// The fingerprint of the call.
    pub fingerprint: Fingerprint,
    /// The ranks with whose calls the call must be compared.
    pub whom: Whom,
    /// The hub of the call, if it has one. If the hub has completed its call, all other ranks have made the same call.
    pub hub: Option<u32>,
}

/// What this rank knows of the peer's call with the same [`CallId`] as a call of this rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PeerCall {
    /// Nothing: the peer has not made the call yet.
    NotYet,
    /// The peer made a call with this fingerprint.
    Call(Fingerprint),
    /// The calls agree: the peer made its call and has compared it with the calls of all ranks, or the calls need not
    /// be compared.
    Agreed,
    /// The peer made a call whose fingerprint this rank cannot see any more. The peer must be asked.
    Gone,
}

/// The result of a comparison with a peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// All calls in doubt were compared.
    Done,
    /// The peer has not made the next call to compare.
    NotYet,
    /// The peer must be asked about the next call to compare.
    Gone,
}

/// A disagreement: two ranks made different calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clash {
    /// The other rank.
    pub peer: u32,
    /// This rank's call.
    pub mine: Fingerprint,
    /// The other rank's call.
    pub theirs: Fingerprint,
}

/// A report of a rank's calls before number `until`. A call before `until` that is not in the list was already compared
/// with the calls of all ranks, and agreed with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The number of the first call that the report does not cover.
    pub until: u64,
    /// The calls that the rank remembers, with their numbers, in ascending order.
    pub calls: Vec<(u64, Fingerprint)>,
}

impl History {
    /// The largest number of calls in an answer.
    pub const ANSWER: usize = 64;
    /// The largest number of calls in the report of a rank that leaves.
    pub const GOODBYE: usize = 1024;

    /// Makes a report of `calls`, all of which are before `until`. They may be in any order, and may appear twice. If
    /// there are more than `most` calls, the report covers only the first `most`.
    pub fn new(until: u64, mut calls: Vec<(u64, Fingerprint)>, most: usize) -> History {
        calls.sort_unstable_by_key(|(number, _)| *number);
        calls.dedup_by_key(|(number, _)| *number);
        let cut = calls.len() > most;
        calls.truncate(most);
        let last = calls.last().map_or(0, |(number, _)| number.saturating_add(1));
        History { until: if cut { last } else { until.max(last) }, calls }
    }

    /// Returns the call at this position, if the report has it.
    pub fn at(&self, place: CallId) -> Option<Fingerprint> {
        self.calls.iter().map(|(_, fingerprint)| *fingerprint).find(|fingerprint| CallId::of(fingerprint) == place)
    }

    /// Returns what this report says about a call in doubt. `last` says that the reporting rank makes no more calls.
    fn of(&self, doubt: &Doubt, last: bool) -> PeerCall {
        match self.at(CallId::of(&doubt.fingerprint)) {
            Some(fingerprint) => PeerCall::Call(fingerprint),
            None if last || doubt.number < self.until => PeerCall::Agreed,
            None => PeerCall::NotYet,
        }
    }
}

/// The calls of a rank that are in doubt.
pub struct Doubts {
    calls: VecDeque<Doubt>,
    /// The number of calls that were removed from the front of `calls`.
    before: u64,
    peers: Box<[Standing]>,
    /// The first disagreement that was found.
    clash: Option<Clash>,
}

/// The state of the comparison with a peer.
#[derive(Clone, Default)]
struct Standing {
    /// The index, counted from the first call ever in doubt, of the next call to compare with the peer. All calls
    /// before it are settled: they agree, or need not be compared.
    next: u64,
    /// Whether the peer was asked and has not answered.
    asked: bool,
    /// Whether this rank no longer waits for the peer's answer, because the wait took too long.
    slow: bool,
    /// The last report of the peer, if the peer has left.
    goodbye: Option<History>,
}

impl Doubts {
    /// Makes an empty list for rank `me` of `world`.
    pub fn new(me: u32, world: u32) -> Doubts {
        let mut peers = vec![Standing::default(); world as usize];
        if let Some(own) = peers.get_mut(me as usize) {
            own.next = u64::MAX;
        }
        Doubts { calls: VecDeque::new(), before: 0, peers: peers.into(), clash: None }
    }

    /// Moves all calls out of `fresh` into the list.
    pub fn add(&mut self, fresh: &mut Vec<Doubt>) {
        self.calls.extend(fresh.drain(..));
        while self.calls.len() > MOST {
            self.calls.pop_front();
            self.before += 1;
        }
    }

    /// Returns whether any call is in doubt.
    pub fn open(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Returns this rank's call at this position, if the call is in doubt.
    pub fn find(&self, place: CallId) -> Option<Fingerprint> {
        self.calls.iter().map(|doubt| doubt.fingerprint).find(|fingerprint| CallId::of(fingerprint) == place)
    }

    /// Returns the calls in doubt from number `from` on.
    pub fn since(&self, from: u64) -> impl Iterator<Item = (u64, Fingerprint)> {
        let start = self.calls.partition_point(|doubt| doubt.number < from);
        self.calls.range(start..).map(|doubt| (doubt.number, doubt.fingerprint))
    }

    /// Compares this rank's calls in doubt with the calls of the peer, in order, until `look` returns `NotYet` or
    /// `Gone`. `look` returns what is known of the peer's call.
    ///
    /// # Errors
    /// The first disagreement.
    pub fn compare(&mut self, peer: u32, mut look: impl FnMut(&Doubt) -> PeerCall) -> Result<Progress, Clash> {
        let Some(standing) = self.peers.get_mut(peer as usize) else { return Ok(Progress::Done) };
        standing.next = standing.next.max(self.before);
        while let Some(doubt) = self.calls.get((standing.next - self.before) as usize) {
            let known = match doubt.whom {
                Whom::All => look(doubt),
                Whom::One(rank) if rank == peer => look(doubt),
                _ => PeerCall::Agreed,
            };
            match known {
                PeerCall::NotYet => return Ok(Progress::NotYet),
                PeerCall::Gone => return Ok(Progress::Gone),
                PeerCall::Call(theirs) if theirs != doubt.fingerprint => {
                    return Err(Clash { peer, mine: doubt.fingerprint, theirs });
                }
                PeerCall::Call(_) | PeerCall::Agreed => standing.next += 1,
            }
        }
        Ok(Progress::Done)
    }

    /// Returns the number of the first call that is not settled with this peer, if there is one.
    pub fn unsettled(&self, peer: u32) -> Option<u64> {
        let next = self.peers.get(peer as usize)?.next.max(self.before);
        self.calls.get((next - self.before) as usize).map(|doubt| doubt.number)
    }

    /// Returns the number of the first call about which the peer must be asked, if the number is less than `before`,
    /// and records that the peer is asked. Returns `None` if there is no such call, or if the peer was asked already
    /// and has not answered. If the peer has left, this function compares the peer's last report and returns `None`.
    ///
    /// # Errors
    /// The first disagreement with the last report.
    pub fn question(&mut self, peer: u32, before: u64) -> Result<Option<u64>, Clash> {
        let goodbye = self.peers.get_mut(peer as usize).and_then(|standing| standing.goodbye.take());
        if let Some(history) = goodbye {
            let compared = self.compare(peer, |doubt| history.of(doubt, true));
            self.peers[peer as usize].goodbye = Some(history);
            return compared.map(|_| None);
        }
        let mut number = None;
        self.compare(peer, |doubt| {
            number = Some(doubt.number);
            PeerCall::Gone
        })?;
        Ok(number.filter(|number| *number < before).filter(|_| {
            let standing = &mut self.peers[peer as usize];
            !std::mem::replace(&mut standing.asked, true)
        }))
    }

    /// Compares the report with which a peer answered. `last` says that the peer leaves.
    ///
    /// # Errors
    /// The first disagreement with the report.
    pub fn answer(&mut self, peer: u32, history: History, last: bool) -> Result<(), Clash> {
        self.withdraw(peer);
        let compared = self.compare(peer, |doubt| history.of(doubt, last)).map(drop);
        self.clash = self.clash.or(compared.err());
        if let Some(standing) = self.peers.get_mut(peer as usize).filter(|_| last) {
            standing.goodbye = Some(history);
        }
        self.forget();
        compared
    }

    /// Records that a peer has left. If the peer left without a last report, the peer's calls count as equal to the
    /// calls of this rank.
    pub fn leave(&mut self, peer: u32) {
        if self.peers.get(peer as usize).is_some_and(|standing| standing.goodbye.is_none()) {
            let _ = self.answer(peer, History::default(), true);
        }
    }

    /// Records a disagreement, unless one was found before.
    pub fn found(&mut self, clash: Clash) {
        self.clash = self.clash.or(Some(clash));
    }

    /// Returns the first disagreement that was found.
    pub fn clash(&self) -> Option<Clash> {
        self.clash
    }

    /// Records that no answer of this peer is expected any more.
    pub fn withdraw(&mut self, peer: u32) {
        if let Some(standing) = self.peers.get_mut(peer as usize) {
            (standing.asked, standing.slow) = (false, false);
        }
    }

    /// Returns whether this rank should wait for an answer of a peer.
    pub fn is_waiting(&self) -> bool {
        self.peers.iter().any(|standing| standing.asked && !standing.slow)
    }

    /// Stops waiting for the answers that have not arrived, and returns the ranks that have not answered. An answer
    /// that arrives later is still used.
    pub fn give_up_waiting(&mut self) -> Vec<u32> {
        let open = (0..).zip(&mut *self.peers).filter(|(_, standing)| standing.asked && !standing.slow);
        open.map(|(rank, standing)| (standing.slow = true, rank).1).collect()
    }

    /// Removes the calls that are settled with all peers.
    pub fn forget(&mut self) {
        let settled = self.peers.iter().map(|standing| standing.next).min().unwrap_or(u64::MAX);
        while self.before < settled && self.calls.pop_front().is_some() {
            self.before += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(seq: u32, root: u32) -> Fingerprint {
        Fingerprint { seq, op: OpKind::Broadcast as u8, root, ..Fingerprint::default() }
    }

    fn doubt(number: u64, whom: Whom) -> Doubt {
        Doubt { number, fingerprint: fingerprint(number as u32, 0), whom, hub: None }
    }

    fn doubts(world: u32, calls: impl IntoIterator<Item = Doubt>) -> Doubts {
        let mut doubts = Doubts::new(0, world);
        doubts.add(&mut calls.into_iter().collect());
        doubts
    }

    #[test]
    fn a_rank_that_only_sends_compares_with_the_others() {
        let unrooted = OpKind::ALL.iter().filter(|op| !op.is_rooted());
        assert!(unrooted.clone().all(|op| Whom::after(*op, 0, 0, 4) == Whom::Nobody));
        for op in OpKind::ALL.iter().filter(|op| op.is_rooted()) {
            let sends = |me| Whom::after(*op, me, 1, 4) != Whom::Nobody;
            let spreads = matches!(op, OpKind::Broadcast | OpKind::Scatter);
            assert_eq!((sends(1), sends(0)), (spreads, !spreads), "{op}");
            assert_eq!(Whom::after(*op, 1, 1, 1), Whom::Nobody);
            assert_eq!(Whom::after(*op, 0, 1, 99), if spreads { Whom::Nobody } else { Whom::All });
        }
    }

    #[test]
    fn calls_stay_in_doubt_until_all_ranks_have_made_them() {
        let mut d = doubts(3, (0..4).map(|n| doubt(n, Whom::All)));
        let same = |until: u64| {
            move |d: &Doubt| if d.number < until { PeerCall::Call(d.fingerprint) } else { PeerCall::NotYet }
        };
        assert_eq!(d.compare(1, same(4)), Ok(Progress::Done));
        assert_eq!(d.compare(2, same(1)), Ok(Progress::NotYet));
        d.forget();
        assert_eq!(d.since(0).map(|(n, _)| n).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(d.find(CallId { seq: 2, step: 0 }), Some(fingerprint(2, 0)));
        let odd = |d: &Doubt| PeerCall::Call(Fingerprint { root: 2, ..d.fingerprint });
        assert_eq!(d.compare(2, odd), Err(Clash { peer: 2, mine: fingerprint(1, 0), theirs: fingerprint(1, 2) }));
        assert_eq!(d.compare(2, same(4)), Ok(Progress::Done));
        d.forget();
        assert!(!d.open());
    }

    #[test]
    fn a_call_in_doubt_for_one_rank_is_settled_with_all_others() {
        let mut d = doubts(3, [doubt(0, Whom::One(2))]);
        assert_eq!(d.compare(1, |_| PeerCall::NotYet), Ok(Progress::Done));
        assert_eq!(d.question(1, u64::MAX), Ok(None));
        assert_eq!((d.unsettled(1), d.unsettled(2)), (None, Some(0)));
        assert_eq!(d.question(2, 0), Ok(None), "the call is not before the limit");
        assert_eq!(d.question(2, u64::MAX), Ok(Some(0)));
        assert_eq!(d.question(2, u64::MAX), Ok(None), "asked already");
        assert!(d.is_waiting());
        d.give_up_waiting();
        assert!(!d.is_waiting());
        let history = History::new(1, vec![(0, fingerprint(0, 0))], 64);
        assert_eq!(d.answer(2, history, false), Ok(()));
        assert!(!d.open());
    }

    #[test]
    fn an_answer_covers_what_it_lists_and_what_is_forgotten() {
        let calls: Vec<_> = (0..100).map(|n| (n, fingerprint(n as u32, 0))).rev().collect();
        let history = History::new(100, calls, 64);
        assert_eq!((history.until, history.calls.len()), (64, 64));
        let mut d = doubts(2, (0..70).map(|n| doubt(n, Whom::All)));
        assert_eq!(d.answer(1, history, false), Ok(()));
        assert_eq!(d.question(1, u64::MAX), Ok(Some(64)));
        assert_eq!(d.answer(1, History { until: 69, calls: vec![] }, false), Ok(()));
        assert_eq!(d.since(0).map(|(n, _)| n).collect::<Vec<_>>(), [69]);
        let odd = History::new(70, vec![(69, fingerprint(69, 1))], 64);
        let clash = Clash { peer: 1, mine: fingerprint(69, 0), theirs: fingerprint(69, 1) };
        assert_eq!(d.answer(1, odd, false), Err(clash));
        assert_eq!(d.clash(), Some(clash));
    }

    #[test]
    fn a_last_report_is_compared_with_later_calls() {
        let mut d = doubts(2, []);
        let calls = vec![(0, fingerprint(0, 0)), (1, fingerprint(1, 1))];
        assert_eq!(d.answer(1, History::new(2, calls, 64), true), Ok(()));
        d.add(&mut vec![doubt(0, Whom::All)]);
        assert_eq!(d.question(1, u64::MAX), Ok(None));
        d.add(&mut vec![doubt(1, Whom::All)]);
        d.leave(1);
        assert!(d.question(1, u64::MAX).is_err());
    }

    #[test]
    fn a_rank_that_left_without_a_report_counts_as_equal() {
        let mut d = doubts(2, [doubt(0, Whom::All)]);
        assert_eq!(d.question(1, u64::MAX), Ok(Some(0)));
        d.leave(1);
        assert!(!d.open() && !d.is_waiting());
    }

    #[test]
    fn the_oldest_calls_are_dropped_beyond_the_limit() {
        let mut d = doubts(2, (0..MOST as u64 + 10).map(|n| doubt(n, Whom::All)));
        assert_eq!(d.since(0).count(), MOST);
        assert_eq!(d.question(1, u64::MAX), Ok(Some(10)));
    }
}
