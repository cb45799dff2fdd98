//! Decides which rank is at fault, from the ranks' reports about themselves and each other. A rank names itself only in
//! an error between ranks (a deadlock, a broken connection).

use c10d_core::backend::Fingerprint;
use c10d_core::calls::{CallId, about, mismatch};
use c10d_core::waiting::ranks;
use c10d_core::{ENDED_WITHOUT_LEAVING, Error, ErrorKind, Phase};

use super::answer::{Answer, LONG};
use super::chains::Chains;
use super::doing::{Doing, Wait, is_p2p};
use super::revoke::Revoke;
use crate::call_log::Position;

/// The conclusion of a rank from another rank's failure report.
#[derive(Clone, Debug)]
pub(crate) enum Adopted {
    /// The error, which is this rank's first cause as well.
    Cause(Error),
    /// Two ranks disagree about a call that this rank has not made. This rank's own call will show with which of the
    /// two ranks it disagrees.
    Later,
}

/// Returns the conclusion of rank `me`, at `position`, from another rank's report. `find` returns this rank's call with
/// a given id.
pub(crate) fn adopt(
    me: u32,
    revoke: &Revoke,
    find: impl Fn(CallId) -> Option<Fingerprint>,
    position: Position,
) -> Adopted {
    let Some(fingerprints) = &revoke.fingerprints else { return Adopted::Cause(retell(me, revoke)) };
    if fingerprints.iter().any(|(_, fingerprint)| is_p2p(fingerprint))
        && fingerprints.iter().all(|(rank, _)| *rank != me)
    {
        // Only the two ranks of a message know the message, so this rank has no call to compare.
        return Adopted::Cause(third_party(me, revoke));
    }
    let place = CallId::of(&fingerprints[0].1);
    let own = fingerprints.iter().find(|(rank, _)| *rank == me).map(|(_, fingerprint)| *fingerprint);
    match own.or_else(|| find(place)).or_else(|| find(CallId::of(&fingerprints[1].1))) {
        Some(own) => Adopted::Cause(compare(me, &own, fingerprints, revoke).unwrap_or_else(|| retell(me, revoke))),
        None if position.is_before(place) => Adopted::Later,
        None => Adopted::Cause(third_party(me, revoke)),
    }
}

/// Makes the error of a mismatch between two other ranks, when this rank has no call to compare.
pub(crate) fn third_party(me: u32, revoke: &Revoke) -> Error {
    let error = retell(me, revoke);
    match &revoke.fingerprints {
        Some([(a, _), (b, _)]) => error.guilty([*a, *b].into_iter().filter(|rank| *rank != me)),
        None => error,
    }
}

/// Compares this rank's call with the calls of the report. Returns a mismatch with the ranks whose calls differ, if
/// any.
fn compare(me: u32, own: &Fingerprint, fingerprints: &[(u32, Fingerprint); 2], revoke: &Revoke) -> Option<Error> {
    let others = fingerprints.iter().filter(|(rank, theirs)| *rank != me && theirs != own);
    let (_, theirs) = others.clone().next()?;
    let mut error = mismatch(others.map(|(rank, _)| *rank), own, theirs)?;
    error.report_mut().phase = revoke.phase.or(Some(Phase::Announce));
    Some(error)
}

/// The beginning of texts that come from another rank's report.
const REPORTED: &str = "reported by rank ";

/// Turns another rank's error into this rank's error. The new error names the ranks that the report names, except this
/// rank, or else the reporter. An error between ranks (a deadlock, a broken connection) names all guilty ranks on every
/// rank.
pub(crate) fn retell(me: u32, revoke: &Revoke) -> Error {
    let by = revoke.by;
    let mut guilty: Vec<u32> = revoke.guilty.iter().copied().filter(|rank| revoke.between || *rank != me).collect();
    let named = guilty.len() != revoke.guilty.len();
    let mut kind = revoke.kind.clone();
    if guilty.is_empty() {
        guilty = vec![by];
    }
    if let ErrorKind::Mismatch { mine, theirs, .. } = &mut kind {
        if named {
            std::mem::swap(mine, theirs);
        } else if revoke.fingerprints.is_none() {
            // This rank cannot know whether the reporter or the accused rank is wrong.
            guilty.push(by);
        }
    }
    let sep = if revoke.what.is_empty() { "" } else { ": " };
    let said = match revoke.via {
        Some(via) => format!(" (report forwarded by rank {via})"),
        None => String::new(),
    };
    let text = if named && matches!(kind, ErrorKind::Timeout) {
        format!("rank {by} gave up waiting for this rank{said}{sep}{}", revoke.what)
    } else if revoke.what.starts_with(REPORTED) {
        revoke.what.clone()
    } else {
        format!("{REPORTED}{by}{said}{sep}{}", revoke.what)
    };
    let mut error = Error::new(kind, text).guilty(guilty);
    let report = error.report_mut();
    report.status = c10d_core::Status::Failed;
    report.phase = revoke.phase;
    (report.seq, report.op) = (revoke.seq, revoke.op);
    if let Some([(_, fingerprint), _]) = &revoke.fingerprints {
        error = about(fingerprint, error);
    }
    error
}

/// Finds out why the call at `place`, which waits as described by `mine`, is not done at its deadline. `answers` has
/// one entry per rank; the entry of this rank is ignored. `place` is `None` for point-to-point calls.
///
/// For a collective, the guilty ranks are the first of these sets that is not empty: the ranks that are stopped, gone,
/// or outside of any call; the ranks that have been silent for a short time; the ranks that are stuck in other calls;
/// the ranks for which this rank waits. For a message, the guilty ranks are those at the ends of the chains of waits.
/// If ranks wait for each other in a circle, all ranks of the circle are named, even this rank.
pub(crate) fn judge(me: u32, place: Option<CallId>, mine: &Wait, answers: &[Answer]) -> Blame {
    match place {
        Some(place) => judge_collective(me, place, mine, answers),
        None => judge_message(me, mine, answers),
    }
}

fn judge_collective(me: u32, place: CallId, mine: &Wait, answers: &[Answer]) -> Blame {
    let (mut guilty, mut late, mut stuck) = (Vec::new(), Vec::new(), Vec::new());
    let mut words = Vec::new();
    for (rank, answer) in (0..).zip(answers).filter(|(rank, _)| *rank != me) {
        match answer {
            // An answer may come late on a busy machine. So a rank that answered recently is blamed only if no rank is
            // stopped, gone or outside of any call.
            Answer::Silent { since, .. } if *since < LONG => late.push(rank),
            Answer::Silent { .. } => {
                guilty.push(rank);
                words.push(stopped(rank));
            }
            Answer::Left { last, exited } => {
                guilty.push(rank);
                words.push(format!("rank {rank} {}", left_text(*last, *exited)));
            }
            Answer::At(doing) if doing.position.is_before(place) => {
                if doing.blocked().is_none() {
                    guilty.push(rank)
                } else {
                    stuck.push(rank)
                }
                words.push(format!("rank {rank} has not called it: rank {rank} {}", at(doing)));
            }
            _ => {}
        }
    }
    if guilty.is_empty() && !late.is_empty() {
        words.extend(late.iter().map(|rank| stopped(*rank)));
        guilty = late;
    }
    if guilty.is_empty() && !stuck.is_empty() {
        if let Some((guilty, chain)) = (Chains { me, mine, answers }).deadlock(&stuck) {
            words.push(format!("deadlock: {chain}"));
            return Blame { between: true, ..Blame::of(guilty, &words) };
        }
        guilty = stuck;
    }
    if guilty.is_empty() {
        guilty = mine.on(me, answers.len() as u32);
        if !guilty.is_empty() {
            words.push(format!("{} called it but did not finish its part", ranks(&guilty)));
        }
    }
    Blame::of(guilty, &words)
}

/// Returns a text about the position of a rank that did not call a collective.
fn at(doing: &Doing) -> String {
    let at = match (doing.position.last, doing.blocked()) {
        (_, Some(wait)) if wait.on.is_empty() => wait.words(),
        (_, Some(wait)) => format!("is still in {} and waits for {}", wait.call(), ranks(&wait.on)),
        (None, None) if doing.refused.is_some() => "is in no call".to_owned(),
        (None, None) => "has made no call yet".to_owned(),
        (Some(last), None) => format!("is at seq {}", last.seq),
    };
    match &doing.refused {
        Some(refused) => format!("{at}, and {}", refused.words()),
        None => at,
    }
}

fn judge_message(me: u32, mine: &Wait, answers: &[Answer]) -> Blame {
    let chains = Chains { me, mine, answers };
    let reached = chains.reached(&[me]);
    // The reasons, the most certain first.
    let (mut gone, mut idle, mut late, mut busy) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for rank in &reached.ranks {
        let Some(answer) = answers.get(*rank as usize) else { continue };
        match answer {
            Answer::Silent { since, .. } if *since < LONG => late.push((*rank, stopped(*rank))),
            Answer::Silent { .. } => gone.push((*rank, stopped(*rank))),
            Answer::Left { last, exited } => gone.push((*rank, format!("rank {rank} {}", left_text(*last, *exited)))),
            Answer::At(Doing { refused: Some(refused), waits, .. }) if waits.is_empty() => {
                idle.push((*rank, format!("rank {rank} runs, but is in no call, and {}", refused.words())));
            }
            Answer::At(doing) => match &doing.waits[..] {
                [] => idle.push((*rank, format!("rank {rank} runs, but is in no call of this group"))),
                waits if waits.iter().all(|w| w.on(*rank, chains.size()).is_empty()) => {
                    busy.push((*rank, format!("rank {rank} {}", waits[0].words())));
                }
                _ => {}
            },
        }
    }
    let ends = [gone, idle, late].into_iter().find(|ends| !ends.is_empty());
    let ends = match ends {
        Some(ends) => ends,
        None => match chains.deadlock(&[me]) {
            Some((guilty, chain)) => {
                return Blame { between: true, ..Blame::of(guilty, &[format!("deadlock: {chain}")]) };
            }
            None => busy,
        },
    };
    if ends.is_empty() {
        let direct = mine.on(me, chains.size());
        let words = |rank: &u32| format!("rank {rank} {}", doing(answers.get(*rank as usize)));
        let words: Vec<String> = direct.iter().map(words).collect();
        return Blame::of(direct, &words);
    }
    let words = ends.iter().map(|(rank, words)| match reached.chain(*rank) {
        chain if chain.is_empty() => words.clone(),
        chain => format!("{chain}; {words}"),
    });
    let words: Vec<String> = words.collect();
    Blame::of(ends.into_iter().map(|(rank, _)| rank).collect(), &words)
}

fn stopped(rank: u32) -> String {
    format!("rank {rank} is stopped or unreachable")
}

/// Returns what a rank is doing, as a text for ranks that wait for it.
pub(crate) fn doing(answer: Option<&Answer>) -> String {
    match answer {
        None | Some(Answer::Silent { .. }) => "is stopped or unreachable".to_owned(),
        Some(Answer::Left { last, exited }) => left_text(*last, *exited),
        Some(Answer::At(doing)) => match (&doing.refused, doing.waits.first()) {
            (_, Some(wait)) => wait.words(),
            (Some(refused), None) => format!("is in no call, and {}", refused.words()),
            (None, None) => "is in no call".to_owned(),
        },
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Blame {
    pub(crate) guilty: Vec<u32>,
    pub(crate) words: String,
    /// See [`Revoke::between`].
    pub(crate) between: bool,
}

impl Blame {
    fn of(guilty: Vec<u32>, words: &[String]) -> Blame {
        Blame { guilty, words: words.join("; "), between: false }
    }
}

/// Returns why a rank is gone: it said goodbye after call `last`, or its program ended without a goodbye (`exited`).
pub(crate) fn left_text(last: Option<CallId>, exited: bool) -> String {
    match last {
        _ if exited => ENDED_WITHOUT_LEAVING.to_owned(),
        None => "left the group before its first call".to_owned(),
        Some(last) => format!("left the group after seq {}", last.seq),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
