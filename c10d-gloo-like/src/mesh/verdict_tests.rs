use super::*;

fn print(count: u64) -> Fingerprint {
    Fingerprint { seq: 7, op: 4, dtype: 10, reduce: 0, step: 0, count, root: 0, rest: 0 }
}

fn revoke(kind: ErrorKind, guilty: &[u32], prints: Option<[(u32, Fingerprint); 2]>) -> Revoke {
    Revoke { by: 0, kind, what: "why".into(), guilty: guilty.to_vec(), phase: None, seq: Some(7), prints }
}

fn mismatch_01() -> Revoke {
    let kind = ErrorKind::Mismatch { field: "count", mine: "1".into(), theirs: "2".into() };
    revoke(kind, &[1], Some([(0, print(1)), (1, print(2))]))
}

const HERE: Position = Position { last: Some(Place { seq: 7, step: 0 }), inside: true };

fn cause(adopted: Adopted) -> (Vec<u32>, ErrorKind) {
    match adopted {
        Adopted::Cause(e) => (e.report().guilty.clone(), e.kind().clone()),
        Adopted::Later => panic!("not resolved"),
    }
}

fn count(mine: &str, theirs: &str) -> ErrorKind {
    ErrorKind::Mismatch { field: "count", mine: mine.into(), theirs: theirs.into() }
}

#[test]
fn each_rank_names_the_one_that_differs_from_itself() {
    // Rank 0 found it; rank 1 is the other side; 2 agrees with 0, 3 with 1, 4 with neither.
    assert_eq!(cause(adopt(1, &mismatch_01(), |_| None, HERE)), (vec![0], count("2", "1")));
    assert_eq!(cause(adopt(2, &mismatch_01(), |_| Some(print(1)), HERE)), (vec![1], count("1", "2")));
    assert_eq!(cause(adopt(3, &mismatch_01(), |_| Some(print(2)), HERE)), (vec![0], count("2", "1")));
    assert_eq!(cause(adopt(4, &mismatch_01(), |_| Some(print(9)), HERE)), (vec![0, 1], count("9", "1")));
}

#[test]
fn a_rank_that_has_not_called_yet_waits_for_its_own_call() {
    let before = Position { last: Some(Place { seq: 6, step: 0 }), inside: false };
    assert!(matches!(adopt(2, &mismatch_01(), |_| None, before), Adopted::Later));
    let long_after = Position { last: Some(Place { seq: 99, step: 0 }), inside: false };
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

#[test]
fn who_is_late() {
    let place = Some(Place { seq: 7, step: 0 });
    let at = |seq, inside| Answer::At(Position { last: Some(Place { seq, step: 0 }), inside });
    let none = Answer::At(Position { last: None, inside: false });
    type Case<'a> = (&'a [u32], &'a [Answer], &'a [u32], &'a str);
    let late = Answer::Silent(LONG / 2);
    let cases: [Case<'_>; 9] = [
        (&[1], &[at(7, true), late, Answer::Silent(LONG)], &[2], "rank 2 is stopped or unreachable"),
        (&[1], &[at(7, true), late, at(7, true)], &[1], "rank 1 is stopped or unreachable"),
        (&[1], &[at(7, true), at(7, true), Answer::Silent(LONG)], &[2], "rank 2 is stopped or unreachable"),
        (&[1], &[at(7, true), at(6, false), at(7, true)], &[1], "rank 1 has not called it: it is at seq 6"),
        (&[1], &[at(7, true), none, at(7, true)], &[1], "rank 1 has not called it: it has made no call yet"),
        (
            &[1],
            &[at(7, true), at(6, true), at(5, false)],
            &[2],
            "rank 1 has not called it: it is still in seq 6; rank 2 has not called it: it is at seq 5",
        ),
        (&[1], &[at(7, true), at(6, true), at(7, true)], &[1], "rank 1 has not called it: it is still in seq 6"),
        (&[1], &[at(7, true), at(7, true), at(8, true)], &[1], "rank 1 called it but did not finish its part"),
        (&[1], &[at(7, true), Answer::Left(None), at(7, true)], &[1], "rank 1 left the group before its first call"),
    ];
    for (waiting_for, answers, guilty, text) in cases {
        assert_eq!(judge(0, place, waiting_for, answers), (guilty.to_vec(), text.to_owned()));
    }
    // Point-to-point: only the other end matters, and no number is compared.
    assert_eq!(judge(0, None, &[1], &[none, at(3, true), Answer::Silent(LONG)]).0, [1]);
    assert_eq!(
        judge(0, None, &[2], &[none, none, Answer::Silent(LONG)]),
        (vec![2], "rank 2 is stopped or unreachable".into())
    );
}
