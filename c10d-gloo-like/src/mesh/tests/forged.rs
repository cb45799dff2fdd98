//! Tests in which a rank sends impossible frames. All ranks must name this rank.

use super::*;
use crate::call_log::Position;
use crate::mesh::connection::Listener;
use crate::mesh::control::{Decoder, Frame};
use crate::mesh::doing::{Doing, Refused};

use crate::mesh::revoke::Revoke;
use c10d_core::HashStore;
use c10d_core::calls::{CallId, History};
use proptest::prelude::*;

const AT: CallId = CallId { seq: 0, step: 0 };

/// The report of a failure, in the name of the rank `by`.
fn revoke(by: u32, guilty: &[u32], what: &str) -> Revoke {
    let error = Error::new(ErrorKind::Protocol, what).guilty(guilty.iter().copied());
    Revoke::of(by, &error, None)
}

/// The answer of a rank that waits for the ranks `on`.
fn state(on: &[u32], op: u8, fingerprint: Option<Fingerprint>, why: Option<&str>) -> Frame {
    let wait = Wait { op, at: 0, on: on.to_vec(), started: false };
    let refused = why.map(|why| Refused { op: 4, why: why.into() });
    let doing = Doing { position: Position { last: None, inside: false }, waits: vec![wait], refused };
    Frame::State { id: 0, place: AT, doing, fingerprint }
}

/// Returns impossible frames from rank 1 of a group of three ranks.
fn forgeries() -> Vec<(&'static str, Vec<u8>)> {
    let tell = |revoke: Revoke| Frame::Revoke(Box::new(revoke));
    let compared = |a, b| Some([(a, call(0, 1)), (b, call(0, 2))]);
    let frames = [
        ("a report by a rank outside the group", tell(revoke(3, &[2], "x"))),
        ("a report forwarded by a rank outside the group", tell(Revoke { via: Some(4), ..revoke(2, &[], "x") })),
        ("a report by rank u32::MAX", tell(revoke(u32::MAX, &[], "x"))),
        ("a guilty rank outside the group", tell(revoke(1, &[2, 7], "x"))),
        (
            "a compared call of a rank outside the group",
            tell(Revoke { fingerprints: compared(1, 9), ..revoke(1, &[1], "x") }),
        ),
        ("a comparison of a rank with itself", tell(Revoke { fingerprints: compared(1, 1), ..revoke(1, &[1], "x") })),
        ("a question about a rank outside the group", Frame::Reach { of: 3 }),
        ("a question about its sender", Frame::Reach { of: 1 }),
        ("an answer about a rank outside the group", Frame::Reached { of: 99, alive: false }),
        ("an answer about its sender", Frame::Reached { of: 1, alive: true }),
        ("a wait for a rank outside the group", state(&[5], 4, None, None)),
        ("a wait in an op that does not exist", state(&[0], 250, None, None)),
        ("a rejected call of an op that does not exist", {
            let Frame::State { id, place, mut doing, fingerprint } = state(&[0], 4, None, Some("x")) else {
                return Vec::new();
            };
            doing.refused = Some(Refused { op: 200, why: "x".into() });
            Frame::State { id, place, doing, fingerprint }
        }),
        ("another call than the one that was asked for", state(&[0], 4, Some(call(9, 1)), None)),
        (
            "a call beyond the number of calls made",
            Frame::Calls { last: false, history: History { until: 1, calls: vec![(5, call(0, 1))] } },
        ),
    ];
    let mut forgeries: Vec<(&str, Vec<u8>)> =
        frames.into_iter().map(|(what, frame)| (what, frame.to_bytes())).collect();
    forgeries.push(("a frame longer than the limit", u32::MAX.to_le_bytes().to_vec()));
    forgeries.push(("an unknown frame", [&2u32.to_le_bytes()[..], &[77, 1]].concat()));
    forgeries.push(("a frame cut short", [&2u32.to_le_bytes()[..], &[13, 1]].concat()));
    forgeries
}

/// Sends these bytes from rank 1 to the other ranks over the control connections. Returns the error of each rank.
fn forged(bytes: &[u8]) -> Vec<Option<Error>> {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    let (sent, heard) = (std::sync::Barrier::new(3), std::sync::Barrier::new(3));
    std::thread::scope(|s| {
        let ranks: Vec<_> = (0..3)
            .map(|rank| {
                let (store, sent, heard) = (store.clone(), &sent, &heard);
                s.spawn(move || {
                    let mesh = Mesh::connect(wiring(rank, 3, store, Transport::Tcp)).unwrap();
                    sent.wait();
                    if rank == 1 {
                        [0, 2].into_iter().for_each(|peer| mesh.health.forge(peer, bytes));
                    }
                    eventually("the failure", || mesh.health.failed());
                    heard.wait();
                    mesh.health.cause()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_rank_that_sends_impossible_frames_is_named_by_all() {
    for (what, bytes) in forgeries() {
        for (rank, cause) in forged(&bytes).into_iter().enumerate().filter(|(rank, _)| *rank != 1) {
            let cause = cause.unwrap();
            assert_eq!(
                (cause.kind(), &cause.report().guilty[..]),
                (&ErrorKind::Protocol, &[1][..]),
                "{what}, rank {rank}: {cause}"
            );
        }
    }
}

#[test]
fn a_report_in_the_name_of_another_rank_names_its_sender() {
    let bytes = Frame::Revoke(Box::new(revoke(2, &[0], "\x1b[2J\nlies"))).to_bytes();
    let causes = forged(&bytes);
    // Rank 2 did not send the report, so it detects the forgery.
    let cause = causes[2].as_ref().unwrap();
    assert_eq!((cause.kind(), &cause.report().guilty[..]), (&ErrorKind::Protocol, &[1][..]), "{cause}");
    for cause in causes.iter().flatten() {
        assert!(!cause.to_string().contains(['\x1b', '\n']), "{cause:?}");
    }
    let words = causes[0].as_ref().unwrap().to_string();
    assert!(words.contains("rank 1"), "the sender is not named: {words}");
}

/// Passes bytes to the parser and to the health of a group, which must not panic.
fn feed(bytes: &[u8]) {
    let health = Health::new("g".into(), 0, 3, None);
    let mut decoder = Decoder::default();
    for part in bytes.chunks(61) {
        decoder.push(part);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => health.clone().handle(1, frame),
                Ok(None) => break,
                Err(what) => return health.clone().broke_protocol(1, what),
            }
        }
    }
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let known = proptest::sample::select(forgeries().into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>());
    let random = (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(tag, body)| {
        let mut bytes = (body.len() as u32 + 1).to_le_bytes().to_vec();
        bytes.push(tag % 16);
        bytes.extend(body);
        bytes
    });
    let changed = (known.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, value)| {
        let at = at.index(bytes.len());
        bytes[at] = value;
        bytes
    });
    prop_oneof![known, random, changed]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_frames_of_a_member_leave_the_watcher_running(frames in proptest::collection::vec(frame(), 1..6)) {
        feed(&frames.concat());
    }
}
