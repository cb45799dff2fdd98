use super::*;
use crate::mesh::doing::{Refused, Wait};
use c10d_core::{Error, ErrorKind, OpKind, Phase};

fn frames() -> Vec<Frame> {
    let fingerprint = Fingerprint { seq: 7, op: 4, dtype: 10, reduce: 0, step: 2, count: 1 << 40, root: 3, rest: 9 };
    let at = CallId { seq: 7, step: 2 };
    let revoke = |kind: ErrorKind, fingerprints| {
        Frame::Revoke(Box::new(Revoke {
            by: 3,
            via: (kind == ErrorKind::Internal).then_some(2),
            between: kind == ErrorKind::Timeout,
            kind,
            what: "why".into(),
            guilty: vec![1, 5],
            phase: Some(Phase::Transfer),
            seq: Some(1 << 33),
            op: Some(OpKind::Gather),
            fingerprints,
        }))
    };
    let wait = |on: &[u32], started| Wait { op: 4, at: 7, on: on.to_vec(), started };
    let state = |id, last: Option<CallId>, fingerprint: Option<Fingerprint>, waits: Vec<Wait>| {
        let refused = fingerprint.map(|_| Refused { op: 3, why: "InvalidArgument: no".into() });
        let doing = Doing { position: Position { last, inside: last.is_some() }, waits, refused };
        Frame::State { id, place: at, doing, fingerprint }
    };
    vec![
        Frame::Query { id: 1, place: at },
        state(1, Some(at), Some(fingerprint), vec![wait(&[2, 1 << 20], true), wait(&[], false)]),
        state(2, None, None, vec![]),
        Frame::Reach { of: 7 },
        Frame::Reached { of: 7, alive: true },
        revoke(ErrorKind::Timeout, None),
        revoke(ErrorKind::Internal, None),
        revoke(ErrorKind::PeerDead { how: "connection closed".into() }, None),
        revoke(
            ErrorKind::Mismatch { field: "count", mine: "1".into(), theirs: "2".into() },
            Some([(0, fingerprint), (1, Fingerprint { count: 2, ..fingerprint })]),
        ),
        Frame::Goodbye { last: Some(at), failed: false },
        Frame::Goodbye { last: None, failed: true },
        Frame::Exited { last: Some(at), failed: false },
        Frame::Exited { last: None, failed: true },
        Frame::Ask { from: 1 << 40 },
        Frame::Calls { last: false, history: History { until: 9, calls: vec![(7, fingerprint), (8, fingerprint)] } },
        Frame::Calls { last: true, history: History::default() },
    ]
}

#[test]
fn frames_are_decoded_from_pieces_of_any_size() {
    let stream: Vec<u8> = frames().iter().flat_map(Frame::to_bytes).collect();
    for step in [1, 2, 7, 50, stream.len()] {
        let (mut decoder, mut got) = (Decoder::default(), Vec::new());
        for chunk in stream.chunks(step) {
            decoder.push(chunk);
            while let Some(frame) = decoder.next().unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got, frames());
    }
}

#[test]
fn a_report_of_a_mismatch_keeps_its_field() {
    for field in ErrorKind::FIELDS {
        let kind = ErrorKind::Mismatch { field, mine: "1".into(), theirs: "2".into() };
        let revoke = Box::new(Revoke::of(3, &Error::new(kind, "why"), None));
        let mut decoder = Decoder::default();
        decoder.push(&Frame::Revoke(revoke.clone()).to_bytes());
        assert_eq!(decoder.next(), Ok(Some(Frame::Revoke(revoke))));
    }
}

#[test]
fn ask_without_allocation_equals_the_frame() {
    assert_eq!(Frame::Ask { from: 7 << 33 }.to_bytes(), Frame::ask(7 << 33));
}

#[test]
fn damaged_frames_are_refused_and_never_panic() {
    for frame in frames() {
        let good = frame.to_bytes();
        for at in 0..good.len() {
            for value in [0, 1, 2, 127, 255] {
                let mut bad = good.clone();
                bad[at] = value;
                let mut decoder = Decoder::default();
                decoder.push(&bad);
                let _ = decoder.next();
            }
        }
    }
    let mut decoder = Decoder::default();
    decoder.push(&(MAX as u32 + 1).to_le_bytes());
    assert!(decoder.next().is_err());
}

#[test]
fn a_revoke_fits_into_a_frame() {
    let revoke = Revoke {
        by: 0,
        via: None,
        kind: ErrorKind::PeerDead { how: "x".repeat(9999) },
        what: "y".repeat(9999),
        guilty: (0..20_000).collect(),
        between: true,
        phase: None,
        seq: None,
        op: None,
        fingerprints: None,
    };
    let bytes = Frame::Revoke(Box::new(revoke)).to_bytes();
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    assert!(matches!(decoder.next(), Ok(Some(Frame::Revoke(_)))));
}
