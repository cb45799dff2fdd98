//! Who is at fault, from what ranks say of themselves and of each other. Pure functions; no rank ever names itself.

use c10d_core::{Error, ErrorKind, Fingerprint, OpKind, Phase};

use std::time::Duration;

use super::board::{Place, Position};
use super::control::Revoke;

/// What is known of a peer when a deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    /// It does not answer: its process is stopped, or cannot be reached. It was last heard so long ago.
    Silent(Duration),
    /// It said goodbye after this call.
    Left(Option<Place>),
    /// It is here.
    At(Position),
}

/// What a rank makes of a failure that another one reports.
#[derive(Clone, Debug)]
pub(crate) enum Adopted {
    /// It is this rank's first cause too.
    Cause(Error),
    /// Two ranks disagree about a call that this one has not made yet: its own call will tell with whom it disagrees.
    Later,
}

/// The error that rank `me` reports after another one reported `revoke`. `find` tells the own call at a place, `position`
/// the own place.
pub(crate) fn adopt(
    me: u32,
    revoke: &Revoke,
    find: impl Fn(Place) -> Option<Fingerprint>,
    position: Position,
) -> Adopted {
    let Some(prints) = &revoke.prints else { return Adopted::Cause(retell(me, revoke)) };
    if prints.iter().any(|(_, print)| is_p2p(print)) && prints.iter().all(|(rank, _)| *rank != me) {
        // A message has no place among the collectives; two ranks know of it.
        return Adopted::Cause(third_party(me, revoke));
    }
    let place = Place::of(&prints[0].1);
    let own = prints.iter().find(|(rank, _)| *rank == me).map(|(_, print)| *print);
    match own.or_else(|| find(place)).or_else(|| find(Place::of(&prints[1].1))) {
        Some(own) => Adopted::Cause(compare(me, &own, prints, revoke).unwrap_or_else(|| retell(me, revoke))),
        None if position.is_before(place) => Adopted::Later,
        None => Adopted::Cause(third_party(me, revoke)),
    }
}

/// A mismatch between two other ranks, where there is no own call to compare.
pub(crate) fn third_party(me: u32, revoke: &Revoke) -> Error {
    let error = retell(me, revoke);
    match &revoke.prints {
        Some([(a, _), (b, _)]) => error.guilty([*a, *b].into_iter().filter(|rank| *rank != me)),
        None => error,
    }
}

/// The mismatch between the own call and those of the ranks that differ from it.
fn compare(me: u32, own: &Fingerprint, prints: &[(u32, Fingerprint); 2], revoke: &Revoke) -> Option<Error> {
    let differing: Vec<_> = prints
        .iter()
        .filter(|(rank, _)| *rank != me)
        .filter_map(|(rank, p)| Some((*rank, own.disagreement(p)?)))
        .collect();
    let (_, (field, mine, theirs)) = differing.first()?.clone();
    let kind = ErrorKind::Mismatch { field, mine, theirs };
    let mut error = Error::new(kind, ADVICE).guilty(differing.iter().map(|(rank, _)| *rank));
    error.report_mut().seq = revoke.seq;
    error.report_mut().phase = revoke.phase.or(Some(Phase::Announce));
    Some(error)
}

/// The mismatch that rank `me` itself found between its call and that of `rank`.
pub(crate) fn mismatch(rank: u32, mine: &Fingerprint, theirs: &Fingerprint) -> Option<Error> {
    let (field, mine_text, theirs_text) = mine.disagreement(theirs)?;
    let kind = ErrorKind::Mismatch { field, mine: mine_text, theirs: theirs_text };
    let mut error = Error::new(kind, ADVICE).guilty([rank]).phase(Phase::Announce);
    error.report_mut().seq = Some(mine.seq.into());
    Some(error)
}

const ADVICE: &str = "all ranks must call the same operations with the same arguments in the same order";

/// Another rank's error, seen from here: a rank that is named in it names the reporter instead,
/// and a reporter that names nobody is at fault itself.
pub(crate) fn retell(me: u32, revoke: &Revoke) -> Error {
    let by = revoke.by;
    let mut guilty: Vec<u32> = revoke.guilty.iter().copied().filter(|rank| *rank != me).collect();
    let named = guilty.len() != revoke.guilty.len();
    let mut kind = revoke.kind.clone();
    if guilty.is_empty() {
        guilty = vec![by];
    }
    if let ErrorKind::Mismatch { mine, theirs, .. } = &mut kind {
        if named {
            std::mem::swap(mine, theirs);
        } else if revoke.prints.is_none() {
            // Only the two can tell which of them is wrong.
            guilty.push(by);
        }
    }
    let sep = if revoke.what.is_empty() { "" } else { ": " };
    let text = if named && matches!(kind, ErrorKind::Timeout) {
        format!("rank {by} gave up waiting for this rank{sep}{}", revoke.what)
    } else {
        format!("reported by rank {by}{sep}{}", revoke.what)
    };
    let mut error = Error::new(kind, text).guilty(guilty);
    let report = error.report_mut();
    report.status = c10d_core::Status::Failed;
    report.phase = revoke.phase;
    report.seq = revoke.seq;
    error
}

/// A silence that cannot be a matter of scheduling: waiting ranks ask each other more often than this.
const LONG: Duration = Duration::from_millis(400);

/// Who is to blame that the call at `place` is not done at its deadline: the ranks that are stopped, gone, or busy
/// outside of any call; else those that are stuck in an earlier one; else those whom this rank waits for. `answers` has
/// one entry per rank; the own one is ignored. Point-to-point calls have no place.
pub(crate) fn judge(me: u32, place: Option<Place>, waiting_for: &[u32], answers: &[Answer]) -> (Vec<u32>, String) {
    let others = || (0..).zip(answers).filter(|(rank, _)| *rank != me);
    let concerns = |rank: u32| place.is_some() || waiting_for.contains(&rank);
    let mut guilty = Vec::new();
    let mut late = Vec::new();
    let mut stuck = Vec::new();
    let mut words = Vec::new();
    for (rank, answer) in others().filter(|(rank, _)| concerns(*rank)) {
        match (answer, place) {
            // On a busy machine an answer may come late; who was heard lately is not the one to blame if there is another.
            (Answer::Silent(since), _) if *since < LONG => late.push(rank),
            (Answer::Silent(_), _) => {
                guilty.push(rank);
                words.push(format!("rank {rank} is stopped or unreachable"));
            }
            (Answer::Left(last), _) => {
                guilty.push(rank);
                words.push(format!("rank {rank} {}", left_text(*last)));
            }
            (Answer::At(position), Some(place)) if position.is_before(place) => {
                let at = match position.last {
                    None => "has made no call yet".to_owned(),
                    Some(last) => format!("{} seq {}", if position.inside { "is still in" } else { "is at" }, last.seq),
                };
                if position.inside {
                    stuck.push(rank)
                } else {
                    guilty.push(rank)
                }
                words.push(format!("rank {rank} has not called it: it {at}"));
            }
            _ => {}
        }
    }
    if guilty.is_empty() && !late.is_empty() {
        words.extend(late.iter().map(|rank| format!("rank {rank} is stopped or unreachable")));
        guilty = late;
    }
    if guilty.is_empty() {
        guilty = stuck;
    }
    if guilty.is_empty() {
        guilty = waiting_for.iter().copied().filter(|rank| *rank != me).collect();
        let names: Vec<String> = guilty.iter().map(u32::to_string).collect();
        let doing =
            if place.is_some() { "called it but did not finish its part" } else { "runs, but did not take part" };
        if !names.is_empty() {
            words.push(format!("rank {} {doing}", names.join(", ")));
        }
    }
    (guilty, words.join("; "))
}

/// Whether the call is between two ranks.
pub(crate) fn is_p2p(print: &Fingerprint) -> bool {
    OpKind::from_code(print.op).is_some_and(OpKind::is_p2p)
}

/// How a rank that said goodbye is gone.
pub(crate) fn left_text(last: Option<Place>) -> String {
    match last {
        None => "left the group before its first call".to_owned(),
        Some(last) => format!("left the group after seq {}", last.seq),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
