//! The errors for ranks that make different calls, or that do not make a call.

use std::time::{Duration, Instant};

use c10d_core::backend::Fingerprint;
use c10d_core::{Error, ErrorKind, OpKind, Phase};

use super::{CAUSE_WAIT, Exchange, Step, Transfer};
use crate::health::BY_MOST;

/// If calls differ and no majority shows which rank is wrong, a rank waits this long for more calls or for the report
/// of a third rank.
pub(super) const TIE: Duration = Duration::from_millis(400);

impl Exchange {
    /// Fails the group because a rank announces a number of bytes that differs from the number that this rank expects.
    /// Returns the error.
    pub(super) fn uneven(&self, step: &Step<'_>, recv: &Transfer, theirs: u64) -> Error {
        let field = match OpKind::from_code(step.fingerprint.op) {
            Some(OpKind::AllToAll | OpKind::AllToAllSingle) => "splits",
            _ => "count",
        };
        let bytes = |n: u64| format!("{n} bytes");
        let kind = ErrorKind::Mismatch { field, mine: bytes(recv.total as u64), theirs: bytes(theirs) };
        let what = format!("the data from rank {} to rank {} in this collective", recv.peer, self.rank);
        let error = called(step, Error::new(kind, what).phase(Phase::Announce));
        // Other ranks cannot know which of the two ranks is wrong.
        let sent = error.clone().guilty([recv.peer, self.rank]);
        self.health.fail_and_send(error.guilty([recv.peer]), &sent)
    }

    /// Fails the group because `peer` has left and does not make this call. Returns the error. If another rank has
    /// failed the group, the peer may have left before it knew the cause. The goodbye, which comes through MPI, can
    /// then arrive before the cause, which comes through the side channel. So this function waits for the cause first.
    pub(super) fn left(&self, step: &Step<'_>, peer: u32) -> Error {
        let time = (step.deadline)().saturating_duration_since(Instant::now());
        self.health.wait_for_cause(CAUSE_WAIT.min(time / 2)).unwrap_or_else(|| {
            let kind = ErrorKind::PeerDead { how: "left the group".to_owned() };
            self.health.fail(Error::new(kind, "").guilty([peer]).phase(Phase::Announce))
        })
    }

    /// Fails the group because ranks make different calls. Returns the error, or `None` if more calls must be known
    /// first. If three or more calls are known, including this rank's, the call that more than half of these ranks make
    /// is right. `all` means that no more calls are expected. If there is no majority even then, this function waits
    /// briefly for the report of a third rank.
    pub(super) fn disagreement(&self, step: &Step<'_>, heard: &[(u32, Fingerprint)], all: bool) -> Option<Error> {
        let mut votes = vec![(self.rank, step.fingerprint)];
        votes.extend(heard.iter().copied());
        let agree = |a: &Fingerprint, b: &Fingerprint| a.disagreement(b).is_none();
        let count = |of: &Fingerprint| votes.iter().filter(|(_, f)| agree(of, f)).count();
        let right = votes.iter().map(|(_, f)| *f).find(|f| 2 * count(f) > votes.len());
        let most = right.filter(|_| votes.len() > 2);
        if most.is_none() {
            if !all {
                return None;
            }
            // One of two ranks is wrong, and a third rank may know which one.
            let left = (step.deadline)().saturating_duration_since(Instant::now());
            if let Some(cause) = self.health.wait_for_cause(TIE.min(left / 2)) {
                return Some(cause);
            }
        }
        let other = |of: &Fingerprint| votes.iter().find(|(_, f)| !agree(of, f)).copied();
        let (_, theirs) = other(&step.fingerprint)?;
        let guilty: Vec<u32> = match most {
            Some(right) => votes.iter().filter(|(_, f)| !agree(&right, f)).map(|(rank, _)| *rank).collect(),
            None => votes.iter().filter(|(_, f)| !agree(&step.fingerprint, f)).map(|(rank, _)| *rank).collect(),
        };
        let (field, mine, theirs) = step.fingerprint.disagreement(&theirs)?;
        let kind = ErrorKind::Mismatch { field, mine, theirs };
        let what = if most.is_some() { BY_MOST } else { "two ranks disagree about this collective" };
        let error = Error::new(kind, what).guilty(guilty).phase(Phase::Announce);
        Some(self.health.fail(called(step, error)))
    }
}

pub(super) fn late(step: &Step<'_>, waits: &[u32]) -> Error {
    let phase = if step.number == 0 { Phase::Announce } else { Phase::Transfer };
    let what = format!("the ranks did not make this call, or did not continue it, within {:?}", step.timeout);
    called(step, Error::new(ErrorKind::Timeout, what).guilty(waits.iter().copied()).phase(phase))
}

pub(super) fn garbled(peer: u32, what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("rank {peer} {what}")).guilty([peer]).phase(Phase::Transfer)
}

/// Adds the failed call to an error. Later calls get the same error, which must name the call that failed.
fn called(step: &Step<'_>, mut error: Error) -> Error {
    let report = error.report_mut();
    (report.op, report.seq) = (OpKind::from_code(step.fingerprint.op), Some(step.fingerprint.seq.into()));
    error
}
