//! How a rank finds out that ranks made different calls, and reports this to the others.

use super::CallCheck;
use super::post::Out;
use crate::backend::Fingerprint;
use crate::calls::letter::{Disagreement, Letter};
use crate::calls::{CallId, Clash, History, about, mismatch};
use crate::catalog::OpKind;
use crate::{Error, ErrorKind, Phase};

impl CallCheck {
    /// Reports to all peers a disagreement about a collective, for example one that the backend's library found.
    pub fn report(&self, error: &Error) {
        let report = error.report();
        let (ErrorKind::Mismatch { field, mine, theirs }, Some(seq)) = (&report.kind, report.seq) else { return };
        if report.op.is_none_or(OpKind::is_p2p) {
            return;
        }
        let mut calls = self.calls.lock();
        let call = calls.find(|call| call.seq == seq as u32);
        // An error with several guilty ranks came from the report of another rank.
        let (Some(call), [peer], None) = (call, &report.guilty[..], &calls.disagreement) else { return };
        calls.disagreement = Some(error.clone());
        drop(calls);
        let differs = (*field, mine.clone(), theirs.clone());
        self.send(Out::All(Letter::Disagreement(Disagreement { mine: call, peer: *peer, differs })));
    }

    pub(super) fn clash(&self, Clash { peer, mine, theirs }: &Clash) {
        let Some(error) = mismatch([*peer], mine, theirs) else { return };
        self.report(&error);
        (self.fail)(&error);
    }

    /// Handles the report of a peer that ranks made different calls.
    pub(super) fn handle_disagreement(&self, by: u32, disagreement: &Disagreement) {
        let mut calls = self.calls.lock();
        if calls.disagreement.is_some() {
            return;
        }
        let place = CallId::of(&disagreement.mine);
        let own = calls.find(|call| CallId::of(call) == place);
        if own.is_none() && disagreement.peer != self.me {
            // This rank has not made the call yet. When it makes the call, [`CallCheck::note`] compares the call with
            // the report.
            calls.dispute.get_or_insert_with(|| (by, disagreement.clone()));
            return;
        }
        let error = disagreement.seen_from(self.me, own, by);
        calls.disagreement = Some(error.clone());
        drop(calls);
        self.answers.notify_all();
        (self.fail)(&error);
    }

    pub(super) fn handle_calls(&self, peer: u32, history: History, last: bool) {
        let mut calls = self.calls.lock();
        let stuck = calls.open.iter().find_map(|open| {
            let (mine, theirs) = (open.fingerprint, history.at(CallId::of(&open.fingerprint))?);
            (theirs != mine).then_some(Clash { peer, mine, theirs })
        });
        let compared = calls.doubts.answer(peer, history, last);
        drop(calls);
        self.answers.notify_all();
        if let Some(clash) = compared.err().or(stuck) {
            self.clash(&clash);
        }
    }
}

impl Disagreement {
    /// Returns the error of rank `me` for this report of rank `by`. `own` is the call of rank `me` at the position of
    /// the disagreement, if that call is known.
    pub(super) fn seen_from(&self, me: u32, own: Option<Fingerprint>, by: u32) -> Error {
        let (field, value, other) = self.differs.clone();
        let kind = |mine, theirs| ErrorKind::Mismatch { field, mine, theirs };
        let error = |kind, guilty: &[u32]| {
            let error = Error::new(kind, format!("reported by rank {by}")).guilty(guilty.iter().copied());
            about(&own.unwrap_or(self.mine), error.phase(Phase::Announce))
        };
        match own {
            _ if self.peer == me => error(kind(other, value), &[by]),
            Some(own) if own != self.mine => {
                mismatch([by], &own, &self.mine).unwrap_or_else(|| error(kind(value, other), &[by, self.peer]))
            }
            Some(own) if field != "splits" && (field != "count" || own.count.to_string() == value) => {
                error(kind(value, other), &[self.peer])
            }
            // This rank cannot tell which of the two ranks, `by` or `self.peer`, made the wrong call.
            _ => error(kind(value, other), &[by, self.peer]),
        }
    }
}
