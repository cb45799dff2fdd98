//! Tests waits and polls: time limits, results that are returned once, elapsed times.

use std::future::Future;
use std::time::Instant;

use c10d_core::backend::let_go;
use c10d_core::{Error, ErrorKind, Status, op};

use super::*;

#[test]
fn wait_timeout_returns_the_handle_of_an_op_that_is_not_done() {
    let (pg, jobs) = held();
    let work = pg.start(op::all_reduce(vec![0f32; 2], SUM));
    let work = work.wait_timeout(Duration::from_millis(5)).unwrap_err();
    assert!(!work.is_done() && pg.failure().is_none());
    let job = jobs.recv().unwrap();
    let other = std::thread::spawn(move || work.wait_timeout(Duration::from_secs(10)));
    at_once(job);
    assert_eq!(other.join().unwrap().unwrap().unwrap(), [1.0; 2]);
    let mut x = [0f32];
    pg.scope(|s| {
        let work = s.start(op::all_reduce(&mut x, SUM));
        let work = work.wait_timeout(Duration::ZERO).map(drop).unwrap_err();
        at_once(jobs.recv().unwrap());
        work.wait_timeout(Duration::ZERO).map_err(drop).unwrap().map(drop)
    })
    .unwrap();
    assert_eq!(x, [1.0]);
}

/// A poll registers its waker, and a later wait replaces it. The wait must return even if another thread then completes
/// the operation.
#[test]
fn a_wait_replaces_the_waker_of_a_poll() {
    for _ in 0..if cfg!(miri) { 5 } else { 200 } {
        let (pg, jobs) = held();
        let mut work = pg.start(op::all_reduce(vec![0f32; 2], SUM));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::Pin::new(&mut work).poll(&mut cx).is_pending());
        let job = jobs.recv().unwrap();
        let completer = std::thread::spawn(move || at_once(job));
        assert_eq!(work.wait().unwrap(), [1.0; 2]);
        completer.join().unwrap();
    }
}

/// If a backend never completes, the wait of an owned call returns shortly after the deadline.
#[test]
fn an_owned_wait_is_bounded() {
    let (pg, jobs) = held();
    let timeout = Duration::from_millis(50);
    let start = Instant::now();
    let e = within(Duration::from_secs(10), || {
        pg.start(op::all_reduce(vec![0f32], SUM).timeout(timeout)).wait().unwrap_err()
    });
    assert!(start.elapsed() >= timeout + let_go(timeout));
    assert!(e.buffer.is_none() && *e.error.kind() == ErrorKind::Internal);
    assert!(e.error.report().elapsed.unwrap() >= timeout && pg.failure().is_some());
    // The backend may complete the job after the wait has returned.
    at_once(jobs.recv().unwrap());
}

/// If a backend keeps borrowed memory after the deadline, core fails the group and aborts the backend. The caller
/// continues to wait.
#[test]
fn a_borrowed_wait_aborts_the_group_and_goes_on() {
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let (put, take) = (jobs.clone(), jobs);
    let pg = group(puppet(move |job| put.lock().unwrap().push(job)).on_abort(move |_| {
        let jobs = std::mem::take(&mut *take.lock().unwrap());
        std::thread::spawn(|| jobs.into_iter().for_each(later));
    }));
    let mut x = [0f32];
    within(Duration::from_secs(10), || {
        pg.run(op::all_reduce(&mut x, SUM).timeout(Duration::from_millis(10))).map(drop).unwrap();
    });
    assert_eq!(x, [1.0]);
    assert_eq!(pg.failure().map(Error::kind), Some(&ErrorKind::Internal));
}

#[test]
fn absurd_timeouts_do_not_overflow() {
    let pg = group(puppet(later));
    for timeout in [Duration::MAX, Duration::from_secs(i64::MAX as u64 - 1_000_000), Duration::from_secs(1 << 62)] {
        let mut x = [0f32];
        pg.run(op::all_reduce(&mut x, SUM).timeout(timeout)).unwrap();
        pg.start(op::all_reduce(vec![0f32], SUM).timeout(timeout)).wait().unwrap();
        pg.scope(|s| s.start(op::all_reduce(&mut x, SUM).timeout(timeout)).wait().map(drop)).unwrap();
    }
}

/// A handle that has returned its result returns an error to a poll, wait or cancel; the group does not fail.
#[test]
fn a_result_is_given_once() {
    let pg = group(puppet(at_once));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = || {
        let mut work = pg.start(op::all_reduce(vec![1f32], SUM));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::Pin::new(&mut work).poll(&mut cx).is_ready());
        work
    };
    let again = |e: Error| {
        assert_eq!((e.kind(), e.status()), (&ErrorKind::InvalidArgument, Status::Rejected), "{e}");
        assert_eq!((e.report().op, e.report().seq.is_some()), (Some(c10d_core::OpKind::AllReduce), true), "{e}");
        assert!(pg.failure().is_none());
    };
    let mut work = polled();
    for _ in 0..2 {
        let std::task::Poll::Ready(Err(e)) = std::pin::Pin::new(&mut work).poll(&mut cx) else {
            panic!("the result was returned twice")
        };
        assert!(e.buffer.is_none());
        again(e.error);
    }
    again(work.wait().unwrap_err().error);
    again(polled().wait_timeout(Duration::ZERO).unwrap().unwrap_err().error);
    again(polled().cancel().unwrap_err().error);
    let mut x = [0f32];
    pg.scope(|s| {
        let mut work = s.start(op::all_reduce(&mut x, SUM));
        assert!(std::pin::Pin::new(&mut work).poll(&mut cx).is_ready());
        let std::task::Poll::Ready(Err(e)) = std::pin::Pin::new(&mut work).poll(&mut cx) else {
            panic!("the result was returned twice")
        };
        again(e);
        again(work.wait().unwrap_err());
    });
    pg.all_reduce(&mut x, SUM).unwrap();
    assert_eq!(x, [2.0]);
}

/// The elapsed time of an op is counted from its call. Every error of a backend's op has this time.
#[test]
fn errors_have_the_elapsed_time() {
    let fail = |job: Job| job.complete(Err(Error::new(ErrorKind::Device, "at once")));
    assert!(group(puppet(fail)).barrier().unwrap_err().report().elapsed.is_some());
    let e = group(puppet(fail)).start(op::all_reduce(vec![0f32], SUM)).wait().unwrap_err();
    assert!(e.error.report().elapsed.is_some());
    let (pg, jobs) = held();
    let before = Instant::now();
    let work = pg.start(op::all_reduce(vec![0f32], SUM));
    let called = Instant::now();
    let job = jobs.recv().unwrap();
    let least = called.elapsed();
    fail(job);
    let e = work.wait().unwrap_err();
    let took = e.error.report().elapsed.unwrap();
    assert!(took >= least && took <= before.elapsed(), "{least:?}, {}", e.error);
}
