use super::*;
use crate::mesh::doing::Refused;
use c10d_core::OpKind;
use std::time::Duration;

fn fingerprint(count: u64) -> Fingerprint {
    Fingerprint { seq: 7, op: 4, dtype: 10, reduce: 0, step: 0, count, root: 0, rest: 0 }
}

fn revoke(kind: ErrorKind, guilty: &[u32], fingerprints: Option<[(u32, Fingerprint); 2]>) -> Revoke {
    Revoke {
        by: 0,
        via: None,
        kind,
        what: "why".into(),
        guilty: guilty.to_vec(),
        between: false,
        phase: None,
        seq: Some(7),
        op: None,
        fingerprints,
    }
}

/// The report of rank 0, whose count is 1, that rank 1 has the count 2.
fn mismatch_01() -> Revoke {
    let kind = ErrorKind::Mismatch { field: "count", mine: "1".into(), theirs: "2".into() };
    revoke(kind, &[1], Some([(0, fingerprint(1)), (1, fingerprint(2))]))
}

/// The position of a rank that is inside call 7.
const HERE: Position = Position { last: Some(CallId { seq: 7, step: 0 }), inside: true };

/// Returns the ranks that the cause names, and its kind.
fn cause(adopted: Adopted) -> (Vec<u32>, ErrorKind) {
    match adopted {
        Adopted::Cause(e) => (e.report().guilty.clone(), e.kind().clone()),
        Adopted::Later => panic!("the report must be the cause at once"),
    }
}

fn count(mine: &str, theirs: &str) -> ErrorKind {
    ErrorKind::Mismatch { field: "count", mine: mine.into(), theirs: theirs.into() }
}

#[test]
fn each_rank_names_the_one_that_differs_from_itself() {
    // Rank 0 found the mismatch with rank 1. Rank 2 agrees with rank 0, rank 3 with rank 1, and rank 4 with neither.
    assert_eq!(cause(adopt(1, &mismatch_01(), |_| None, HERE)), (vec![0], count("2", "1")));
    assert_eq!(cause(adopt(2, &mismatch_01(), |_| Some(fingerprint(1)), HERE)), (vec![1], count("1", "2")));
    assert_eq!(cause(adopt(3, &mismatch_01(), |_| Some(fingerprint(2)), HERE)), (vec![0], count("2", "1")));
    assert_eq!(cause(adopt(4, &mismatch_01(), |_| Some(fingerprint(9)), HERE)), (vec![0, 1], count("9", "1")));
}

#[test]
fn a_rank_that_has_not_called_yet_waits_for_its_own_call() {
    let before = Position { last: Some(CallId { seq: 6, step: 0 }), inside: false };
    assert!(matches!(adopt(2, &mismatch_01(), |_| None, before), Adopted::Later));
    let long_after = Position { last: Some(CallId { seq: 99, step: 0 }), inside: false };
    assert_eq!(cause(adopt(2, &mismatch_01(), |_| None, long_after)), (vec![0, 1], count("1", "2")));
}

#[test]
fn a_named_rank_names_the_reporter() {
    let splits = ErrorKind::Mismatch { field: "splits", mine: "3".into(), theirs: "4".into() };
    let (guilty, kind) = cause(adopt(1, &revoke(splits, &[1], None), |_| None, HERE));
    assert_eq!(
        (guilty, kind),
        (vec![0], ErrorKind::Mismatch { field: "splits", mine: "4".into(), theirs: "3".into() })
    );
    assert_eq!(cause(adopt(1, &revoke(ErrorKind::Timeout, &[1], None), |_| None, HERE)), (vec![0], ErrorKind::Timeout));
    assert_eq!(cause(adopt(1, &revoke(ErrorKind::Timeout, &[1, 3], None), |_| None, HERE)).0, [3]);
    assert_eq!(cause(adopt(2, &revoke(ErrorKind::Timeout, &[1], None), |_| None, HERE)).0, [1]);
    assert_eq!(cause(adopt(2, &revoke(ErrorKind::Aborted, &[], None), |_| None, HERE)).0, [0]);
}

const ALL_REDUCE: u8 = 4;

fn wait(op: OpKind, at: u32, on: &[u32]) -> Wait {
    Wait { op: op as u8, at, on: on.to_vec(), started: false }
}

/// Returns the answer of a rank whose last collective is `seq`, and that is `inside` it or has ended it.
fn at(seq: u32, inside: bool) -> Answer {
    let waits = if inside { vec![Wait { op: ALL_REDUCE, at: seq, on: vec![], started: false }] } else { vec![] };
    Answer::At(Doing { position: Position { last: Some(CallId { seq, step: 0 }), inside }, waits, refused: None })
}

/// Returns the answer of a rank in a point-to-point call.
fn message(op: OpKind, tag: u32, on: &[u32]) -> Answer {
    let position = Position { last: None, inside: false };
    Answer::At(Doing { position, waits: vec![wait(op, tag, on)], refused: None })
}

/// Returns the answer of a peer that has been silent for this long.
fn silence(since: Duration) -> Answer {
    Answer::Silent { since, before: None }
}

/// Returns the answer of a rank that has made no call.
fn idle() -> Answer {
    Answer::At(Doing { position: Position { last: None, inside: false }, waits: vec![], refused: None })
}

/// Returns the ranks that `me` blames after these answers, and the error's text.
fn judge(me: u32, place: Option<CallId>, mine: &Wait, answers: &[Answer]) -> (Vec<u32>, String) {
    let blame = super::judge(me, place, mine, answers);
    assert_eq!(blame.between, blame.words.contains("deadlock"));
    (blame.guilty, blame.words)
}

#[test]
fn the_rank_that_delays_a_collective_is_named() {
    let place = Some(CallId { seq: 7, step: 0 });
    type Case<'a> = (&'a [u32], &'a [Answer], &'a [u32], &'a str);
    let late = silence(LONG / 2);
    let silent = || silence(LONG);
    let cases: [Case<'_>; 9] = [
        (&[1], &[at(7, true), late.clone(), silent()], &[2], "rank 2 is stopped or unreachable"),
        (&[1], &[at(7, true), late, at(7, true)], &[1], "rank 1 is stopped or unreachable"),
        (&[1], &[at(7, true), at(7, true), silent()], &[2], "rank 2 is stopped or unreachable"),
        (&[1], &[at(7, true), at(6, false), at(7, true)], &[1], "rank 1 has not called it: rank 1 is at seq 6"),
        (&[1], &[at(7, true), idle(), at(7, true)], &[1], "rank 1 has not called it: rank 1 has made no call yet"),
        (
            &[1],
            &[at(7, true), at(6, true), at(5, false)],
            &[2],
            "rank 1 has not called it: rank 1 is still in all_reduce seq 6; rank 2 has not called it: rank 2 is at seq 5",
        ),
        (
            &[1],
            &[at(7, true), at(6, true), at(7, true)],
            &[1],
            "rank 1 has not called it: rank 1 is still in all_reduce seq 6",
        ),
        (&[1], &[at(7, true), at(7, true), at(8, true)], &[1], "rank 1 called it but did not finish its part"),
        (
            &[1],
            &[at(7, true), Answer::Left { last: None, exited: false }, at(7, true)],
            &[1],
            "rank 1 left the group before its first call",
        ),
    ];
    for (waiting_for, answers, guilty, text) in cases {
        let mine = wait(OpKind::AllReduce, 7, waiting_for);
        assert_eq!(judge(0, place, &mine, answers), (guilty.to_vec(), text.to_owned()));
    }
    // For point-to-point ops, only the rank for which this rank waits matters.
    let recv = |from| wait(OpKind::Recv, 5, &[from]);
    assert_eq!(judge(0, None, &recv(1), &[idle(), at(3, true), silent()]).0, [1]);
    assert_eq!(
        judge(0, None, &recv(2), &[idle(), idle(), silent()]),
        (vec![2], "rank 2 is stopped or unreachable".into())
    );
}

#[test]
fn a_chain_of_messages_is_followed_to_its_end() {
    let recv = |tag, from| message(OpKind::Recv, tag, &[from]);
    let mine = wait(OpKind::Recv, 3, &[2]);
    let chain = "rank 3 waits for rank 2 in recv tag 3, rank 2 waits for rank 1 in recv tag 2, rank 1 waits for rank 0 in \
                 recv tag 1; rank 0 ";
    let left = Answer::Left { last: Some(CallId { seq: 4, step: 0 }), exited: false };
    let refuses = Doing {
        position: Position { last: None, inside: false },
        waits: vec![],
        refused: Some(Refused { op: OpKind::Send as u8, why: "InvalidArgument: no such rank".into() }),
    };
    for (end, words) in [
        (silence(LONG), "is stopped or unreachable"),
        (silence(LONG / 2), "is stopped or unreachable"),
        (left, "left the group after seq 4"),
        (idle(), "runs, but is in no call of this group"),
        (
            Answer::At(refuses),
            "runs, but is in no call, and rejected its own last call, send (InvalidArgument: no such rank)",
        ),
        (at(9, true), "is still in all_reduce seq 9"),
    ] {
        let answers = [end, recv(1, 0), recv(2, 1), idle()];
        assert_eq!(judge(3, None, &mine, &answers), (vec![0], format!("{chain}{words}")));
    }
    // For a late rank, its earlier answer is used.
    let Answer::At(before) = recv(2, 1) else { unreachable!() };
    let late = Answer::Silent { since: LONG / 2, before: Some(before.clone()) };
    assert_eq!(judge(3, None, &mine, &[silence(LONG), recv(1, 0), late, idle()]).0, [0]);
    let gone = Answer::Silent { since: LONG, before: Some(before) };
    assert_eq!(judge(3, None, &mine, &[silence(LONG), recv(1, 0), gone, idle()]).0, [2]);
    // A rank that is gone is named instead of an idle rank, wherever they are in the chain.
    let answers = [idle(), message(OpKind::RecvAnySource, 1, &[]), recv(2, 1), idle(), silence(LONG)];
    assert_eq!(judge(3, None, &mine, &answers).0, [4]);
}

#[test]
fn a_circle_names_all_its_ranks() {
    let recv = |tag, from| message(OpKind::Recv, tag, &[from]);
    let answers = [idle(), recv(5, 2), recv(6, 3), idle()];
    let (guilty, words) = judge(3, None, &wait(OpKind::Recv, 7, &[1]), &answers);
    assert_eq!(guilty, [1, 2, 3]);
    assert_eq!(
        words,
        "deadlock: rank 1 waits for rank 2 in recv tag 5, rank 2 waits for rank 3 in recv tag 6, rank 3 waits for rank 1 \
         in recv tag 7"
    );
    // This rank need not be part of the circle.
    let answers = [idle(), recv(5, 2), recv(6, 1), idle()];
    assert_eq!(judge(0, None, &wait(OpKind::Recv, 7, &[1]), &answers).0, [1, 2]);
    // Two ranks that both send to each other are a circle, and so are a send and a receive with different tags.
    let sends = [idle(), message(OpKind::Send, 4, &[0])];
    assert_eq!(judge(0, None, &wait(OpKind::Send, 4, &[1]), &sends).0, [0, 1]);
    assert_eq!(judge(0, None, &wait(OpKind::Recv, 3, &[1]), &sends).0, [0, 1]);
    // A message in transfer does not make a circle.
    let (guilty, words) = judge(0, None, &wait(OpKind::Recv, 4, &[1]), &sends);
    assert_eq!((guilty, words.as_str()), (vec![1], "rank 1 waits for rank 0 in send tag 4"));
    // Ranks in one collective make no circle. A message and a collective can: here, rank 1 waits for a message before
    // it enters the barrier.
    let place = CallId { seq: 7, step: 0 };
    let inside =
        |waits| Answer::At(Doing { position: Position { last: Some(place), inside: true }, waits, refused: None });
    let barrier = |on: &[u32]| vec![wait(OpKind::Barrier, 7, on)];
    let mine = wait(OpKind::Barrier, 7, &[1]);
    assert_eq!(judge(0, Some(place), &mine, &[idle(), inside(barrier(&[0]))]).0, [1]);
    let answers = [idle(), recv(9, 2), inside(barrier(&[1]))];
    let (guilty, words) = judge(0, Some(place), &mine, &answers);
    assert_eq!(guilty, [1, 2]);
    assert!(
        words.contains("rank 1 waits for rank 2 in recv tag 9, rank 2 waits for rank 1 in barrier seq 7"),
        "{words}"
    );
}

#[test]
fn an_error_between_ranks_names_them_on_all_ranks() {
    let circle = Revoke { by: 1, between: true, ..revoke(ErrorKind::Timeout, &[2, 3], None) };
    for me in [0, 2, 3] {
        let error = retell(me, &circle);
        assert_eq!((&error.report().guilty[..], &error.report().what[..]), (&[2, 3][..], "reported by rank 1: why"));
    }
}
