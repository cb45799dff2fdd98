//! Tests the state of a group after an error of its backend, after an abort, and after a rejected call.

use c10d_core::{Error, ErrorKind, Status, op};

use super::*;

#[test]
fn a_dropped_job_ends_as_abandoned() {
    let pg = group(puppet(drop));
    let e = pg.all_reduce(&mut [0f32], SUM).unwrap_err();
    assert_eq!(*e.kind(), ErrorKind::Abandoned);
    assert_eq!((e.report().backend, e.report().seq, e.report().rank), ("puppet", Some(0), Some(0)));
    assert!(e.report().op.is_some() && e.report().group.is_some() && e.report().deadline.is_some());
    let pg = group(puppet(drop));
    let e = pg.start(op::all_reduce(vec![3f32], SUM)).wait().unwrap_err();
    assert_eq!((e.error.kind(), e.buffer), (&ErrorKind::Abandoned, Some(vec![3.0])));
}

#[test]
fn a_failed_group_returns_the_first_cause() {
    let aborts = Arc::new(AtomicUsize::new(0));
    let count = aborts.clone();
    let pg = group(
        puppet(|job| {
            let e = Error::new(ErrorKind::PeerDead { how: "gone".into() }, "first").guilty([0]);
            job.complete(Err(e));
        })
        .on_abort(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        }),
    );
    let first = pg.barrier().unwrap_err();
    assert_eq!(first.report().guilty, [0]);
    for _ in 0..2 {
        let again = pg.all_reduce(&mut [0f32], SUM).unwrap_err();
        assert_eq!((again.kind(), again.report().seq), (first.kind(), Some(0)));
    }
    let e = pg.start(op::all_reduce(vec![1f32], SUM)).wait().unwrap_err();
    assert_eq!((e.error.kind(), e.buffer), (first.kind(), Some(vec![1.0])));
    pg.abort("later");
    assert_eq!(pg.failure().unwrap().kind(), first.kind());
    assert_eq!(aborts.load(Ordering::SeqCst), 1);
    assert_eq!(pg.shutdown().unwrap_err().kind(), first.kind());
}

#[test]
fn rejected_calls_leave_the_group_alone() {
    let pg = group(puppet(at_once));
    let e = pg.start(op::broadcast(vec![1f32], 9)).wait().unwrap_err();
    assert_eq!((e.error.kind(), e.error.status()), (&ErrorKind::InvalidArgument, Status::Rejected));
    assert_eq!((e.error.report().seq, e.buffer), (None, Some(vec![1.0])));
    pg.all_reduce(&mut [0f32], SUM).unwrap();
}

#[test]
fn abort_ends_calls_in_flight_and_later_calls() {
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let (put, take) = (jobs.clone(), jobs.clone());
    let pg = group(puppet(move |job| put.lock().unwrap().push(job)).on_abort(move |cause| {
        std::mem::take(&mut *take.lock().unwrap()).into_iter().for_each(|j| j.complete(Err(cause.clone())));
    }));
    let other = pg.clone();
    let blocked = std::thread::spawn(move || other.all_reduce(&mut [0f32], SUM).map(drop).unwrap_err());
    let work = pg.start(op::send(vec![0f32], 0, 0));
    assert!(work.wait().is_err(), "a message to this rank itself is rejected");
    while jobs.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    pg.abort("enough");
    let e = blocked.join().unwrap();
    assert_eq!((e.kind(), &*e.report().what), (&ErrorKind::Aborted, "enough"));
    assert_eq!(*pg.barrier().unwrap_err().kind(), ErrorKind::Aborted);
    let pg = group(puppet(at_once));
    let clone = pg.clone();
    pg.shutdown().unwrap();
    assert_eq!(*clone.barrier().unwrap_err().kind(), ErrorKind::Shutdown);
    clone.shutdown().unwrap();
}
