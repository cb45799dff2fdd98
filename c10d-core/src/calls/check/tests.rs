use std::sync::Weak;
use std::sync::mpsc::Receiver;

use super::*;
use crate::ErrorKind;
use crate::calls::mismatch;
use crate::store::HashStore;
use crate::store::hooked::Hooked;

/// The time limit of a wait. Only a wait that hangs reaches this limit.
const CAP: Duration = Duration::from_secs(20);

fn call(op: OpKind, seq: u32, root: u32) -> Fingerprint {
    Fingerprint { seq, op: op as u8, root, ..Fingerprint::default() }
}

/// Makes the ranks of a group, and a channel with the errors with which their groups fail.
fn ranks(world: u32) -> (Vec<Arc<CallCheck>>, Receiver<(u32, Error)>) {
    ranks_over(Arc::new(HashStore::new()), world)
}

fn ranks_over(store: Arc<dyn Store>, world: u32) -> (Vec<Arc<CallCheck>>, Receiver<(u32, Error)>) {
    let (failures, failed) = channel();
    let rank = |me| {
        let failures = failures.clone();
        let fail = move |error: &Error| drop(failures.send((me, error.clone())));
        CallCheck::over(store.clone(), me, world, Box::new(fail))
    };
    ((0..world).map(rank).collect(), failed)
}

/// Makes a call on a rank, and returns the error that it reports.
fn make(check: &Arc<CallCheck>, op: OpKind, seq: u32, root: u32) -> Option<Error> {
    check.send_from_now_on();
    let (watch, disagreement) = check.note(op, root, call(op, seq, root));
    if watch {
        check.send(Out::Watch);
    }
    disagreement.or_else(|| check.look(op, root))
}

/// Waits for the error with which the group of this rank fails.
fn what_failed(failed: &Receiver<(u32, Error)>, rank: u32) -> Error {
    std::iter::from_fn(|| failed.recv_timeout(CAP).ok()).find(|(of, _)| *of == rank).unwrap().1
}

fn names(error: &Error, op: OpKind, seq: u64, field: &str, guilty: &[u32]) {
    let report = error.report();
    assert!(matches!(&report.kind, ErrorKind::Mismatch { field: known, .. } if *known == field), "{error}");
    assert_eq!((report.op, report.seq, &report.guilty[..]), (Some(op), Some(seq), guilty), "{error}");
}

#[test]
fn a_rank_that_only_sends_gets_the_error_by_its_8th_call() {
    let (ranks, failed) = ranks(2);
    assert!(make(&ranks[1], OpKind::Broadcast, 0, 1).is_none());
    let errors: Vec<_> = (0..8).map(|seq| make(&ranks[0], OpKind::Broadcast, seq, 0)).collect();
    names(errors[7].as_ref().unwrap(), OpKind::Broadcast, 0, "root", &[1]);
    // Rank 1 gets the error.
    names(&what_failed(&failed, 1), OpKind::Broadcast, 0, "root", &[0]);
    ranks.iter().for_each(|rank| rank.stop());
}

#[test]
fn a_late_rank_delays_no_other_rank() {
    let (ranks, failed) = ranks(2);
    let begin = Instant::now();
    assert!((0..1000).all(|seq| make(&ranks[0], OpKind::Broadcast, seq, 0).is_none()));
    // The rank asks at every fourth of the 1000 calls (`ASK_EVERY`), and gets none of the 250 answers. If it waited for
    // each of them, the calls would take 250 times `PATIENCE`.
    assert!(begin.elapsed() < 50 * PATIENCE, "{:?}", begin.elapsed());
    names(
        &make(&ranks[1], OpKind::Broadcast, 0, 1).or_else(|| ranks[1].leave(Instant::now() + CAP)).unwrap(),
        OpKind::Broadcast,
        0,
        "root",
        &[0],
    );
    assert!(failed.recv_timeout(CAP).is_ok());
    ranks.iter().for_each(|rank| rank.stop());
}

#[test]
fn a_rank_that_has_left_is_still_compared() {
    let (ranks, _told) = ranks(2);
    assert!(make(&ranks[0], OpKind::Broadcast, 0, 0).is_none());
    assert!(ranks[0].leave(Instant::now() + CAP).is_none());
    assert!(make(&ranks[1], OpKind::Broadcast, 0, 1).is_none());
    names(&ranks[1].leave(Instant::now() + CAP).unwrap(), OpKind::Broadcast, 0, "root", &[0]);
}

#[test]
fn ranks_that_wait_for_each_other_learn_why() {
    let (ranks, failed) = ranks(2);
    assert!(make(&ranks[0], OpKind::Scatter, 0, 1).is_none());
    assert!(make(&ranks[1], OpKind::Broadcast, 0, 0).is_none());
    let mut open = vec![(0, OpKind::Scatter), (1, OpKind::Broadcast)];
    while !open.is_empty() {
        let (rank, error) = failed.recv_timeout(CAP).unwrap();
        for (_, op) in open.extract_if(.., |(of, _)| *of == rank) {
            names(&error, op, 0, "op", &[1 - rank]);
        }
    }
    ranks.iter().for_each(|rank| rank.stop());
}

#[test]
fn a_report_about_a_later_call_is_decided_when_the_call_is_made() {
    let (ranks, failed) = ranks(3);
    assert!(make(&ranks[1], OpKind::Reduce, 0, 0).is_none());
    let _ = make(&ranks[2], OpKind::Reduce, 0, 1);
    let _ = ranks[2].leave(Instant::now() + CAP);
    what_failed(&failed, 1);
    let end = Instant::now() + CAP;
    while ranks[0].calls.lock().dispute.is_none() {
        assert!(Instant::now() < end, "rank 0 does not hear of the disagreement");
        std::thread::sleep(Duration::from_millis(1));
    }
    names(&make(&ranks[0], OpKind::Reduce, 0, 0).unwrap(), OpKind::Reduce, 0, "root", &[2]);
    ranks.iter().for_each(|rank| rank.stop());
}

#[test]
fn threads_end_after_leave_and_stop() {
    let (ranks, _told) = ranks(3);
    assert!((0..3).all(|me| make(&ranks[me], OpKind::Barrier, 0, 0).is_none()));
    let left: Vec<Weak<CallCheck>> = ranks.iter().map(Arc::downgrade).collect();
    assert!(ranks[0].leave(Instant::now() + CAP).is_none());
    ranks[1].stop();
    ranks[2].stop();
    drop(ranks);
    let end = Instant::now() + CAP;
    while left.iter().any(|rank| rank.strong_count() > 0) {
        assert!(Instant::now() < end, "the threads of a rank still run");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_rank_that_ended_fails_only_calls_that_need_it() {
    let (ranks, failed) = ranks(3);
    assert!(make(&ranks[0], OpKind::Broadcast, 0, 0).is_none());
    ranks[1].end_without_leaving(Instant::now() + CAP);
    let end = Instant::now() + CAP;
    while [0, 2].iter().any(|me| ranks[*me].calls.lock().ended.is_empty()) {
        assert!(Instant::now() < end, "a rank was not told that the program of rank 1 ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The broadcast from rank 0 does not need rank 1: neither the root nor rank 2 receives from it.
    assert!(make(&ranks[2], OpKind::Broadcast, 0, 0).is_none());
    assert!(failed.try_recv().is_err());
    ranks[2].end_of(&call(OpKind::Broadcast, 0, 0));
    let gone = make(&ranks[2], OpKind::Reduce, 1, 1).unwrap();
    let in_own_words =
        |e: &Error| matches!(e.kind(), ErrorKind::PeerDead { how } if how == crate::ENDED_WITHOUT_LEAVING);
    assert!(in_own_words(&gone) && gone.report().guilty == [1], "{gone}");
    // Errors that a backend's library might report, and whether rank 0 replaces each by the error that rank 1 ended. It
    // does so for errors about rank 1.
    let closed = |rank| Error::new(ErrorKind::PeerDead { how: "closed".into() }, "").guilty([rank]);
    let stopped = |what: String| Error::new(ErrorKind::Aborted, what).guilty([2]);
    for (error, ended) in [
        (closed(1), true),
        (closed(2), false),
        (stopped(format!("it says: {gone}")), true),
        (stopped("by the user".into()), false),
    ] {
        let said = ranks[0].in_its_words(error);
        assert_eq!((in_own_words(&said), &said.report().guilty[..]), (ended, if ended { &[1][..] } else { &[2] }));
    }
    ranks.iter().for_each(|rank| rank.stop());
}

/// Each request to the store ends after [`LISTEN`](super::post::LISTEN). While no letter arrives, a receiving thread
/// makes one request after another.
#[test]
fn a_rank_answers_after_a_long_time_without_messages() {
    let (tell, told) = channel();
    let hook = move |method: &str| {
        if method == "get" {
            let _ = tell.send(());
        }
    };
    let (ranks, _failed) = ranks_over(Arc::new(Hooked { inner: HashStore::new(), hook: Box::new(hook) }), 2);
    ranks.iter().for_each(|rank| rank.send_from_now_on());
    // The two receiving threads make these ten requests, so some of the requests have ended without a letter.
    (0..10).for_each(|_| told.recv_timeout(CAP).expect("another request"));
    assert!(make(&ranks[1], OpKind::Broadcast, 0, 1).is_none());
    let errors: Vec<_> = (0..8).map(|seq| make(&ranks[0], OpKind::Broadcast, seq, 0)).collect();
    names(errors[7].as_ref().unwrap(), OpKind::Broadcast, 0, "root", &[1]);
    ranks.iter().for_each(|rank| rank.stop());
}

#[test]
fn invalid_messages_are_ignored() {
    let (ranks, failed) = ranks(2);
    for letter in [&b""[..], b"\0", &[0xff; 40], &[1; 400], &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        ranks[1].put(0, letter, Instant::now() + CAP);
    }
    assert!(make(&ranks[1], OpKind::Broadcast, 0, 1).is_none());
    assert!(make(&ranks[0], OpKind::Broadcast, 0, 1).is_none());
    ranks[0].end_of(&call(OpKind::Broadcast, 0, 1));
    assert!((1..9).all(|seq| make(&ranks[1], OpKind::Broadcast, seq, 1).is_none()));
    ranks.iter().for_each(|rank| rank.stop());
    assert!(failed.try_recv().is_err());
}

/// A rank reports a disagreement and leaves at once. The report is delivered before `leave` returns.
#[test]
fn a_rank_that_leaves_delivers_its_letters_first() {
    let (ranks, failed) = ranks(2);
    assert!(make(&ranks[1], OpKind::Broadcast, 0, 1).is_none());
    ranks[0].send_from_now_on();
    let (mine, theirs) = (call(OpKind::Broadcast, 0, 0), call(OpKind::Broadcast, 0, 1));
    ranks[0].note(OpKind::Broadcast, 0, mine);
    ranks[0].report(&mismatch([1], &mine, &theirs).unwrap());
    ranks[0].leave(Instant::now());
    assert!(ranks[0].calls.lock().delivered);
    let number = ranks[0].store.add("to/1", 0, Instant::now() + CAP).unwrap();
    assert_eq!(number, 1, "the report is in the inbox of rank 1");
    names(&what_failed(&failed, 1), OpKind::Broadcast, 0, "root", &[0]);
    ranks.iter().for_each(|rank| rank.stop());
}

#[test]
fn a_call_that_takes_long_is_compared_again_and_again() {
    let ages: Vec<u128> = (0..6).map(|asked| super::watch::next_age(asked).as_millis()).collect();
    assert_eq!(ages, [100, 1000, 2000, 4000, 8000, 16_000]);
    assert!(super::watch::next_age(u32::MAX) > Duration::from_secs(1 << 19));
}
