//! Tests that started messages can be cancelled.

use std::future::Future;

use c10d_core::{Cancel, ErrorKind, Status, op};

use super::*;

/// Returns a builder of ranks, and the list into which their backends put the jobs of messages. A backend can cancel a
/// job while it is in the list.
fn mailboxes() -> (c10d_core::Builder, Arc<Mutex<Vec<Job>>>) {
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let list = jobs.clone();
    let builder = common::builder(move |_| {
        let (put, take) = (list.clone(), list.clone());
        puppet(move |job| put.lock().unwrap().push(job)).on_cancel(move |ids| {
            let mut jobs = take.lock().unwrap();
            if !ids.iter().all(|id| jobs.iter().any(|job| job.id() == *id)) {
                return Vec::new();
            }
            jobs.extract_if(.., |job| ids.contains(&job.id())).collect()
        })
    });
    (builder, jobs)
}

#[test]
fn a_message_is_taken_back_unless_it_is_too_late() {
    let (builder, jobs) = mailboxes();
    builder
        .run_ranks(2, |pg| {
            if pg.rank() == 1 {
                return Ok(());
            }
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            // The handle is polled once before it is cancelled, as by a timeout of an async runtime.
            let mut work = pg.start(op::recv(vec![7f32], 1, 5));
            assert!(std::pin::Pin::new(&mut work).poll(&mut cx).is_pending());
            let other = pg.start(op::recv_any_source(vec![8f32], 5));
            let Ok(Cancel::Back(buffer)) = work.cancel() else { panic!("an op that has not begun was not returned") };
            assert_eq!(buffer, [7.0]);
            let Ok(Cancel::Back((buffer, from))) = other.cancel() else {
                panic!("an op that has not begun was not returned")
            };
            assert_eq!((buffer, from), (vec![8.0], u32::MAX));
            assert!(jobs.lock().unwrap().is_empty() && pg.failure().is_none());
            // The message is in transfer: its job is no longer in the backend's list.
            let work = pg.start(op::recv(vec![7f32], 1, 5));
            let job = jobs.lock().unwrap().pop().unwrap();
            let Ok(Cancel::TooLate(work)) = work.cancel() else {
                panic!("an op whose message is in transfer was returned")
            };
            at_once(job);
            let Ok(Cancel::TooLate(work)) = work.cancel() else { panic!("an op that is done was returned") };
            assert_eq!(work.wait()?, [8.0]);
            // The messages of a batch are cancelled separately. Messages with borrowed buffers can be cancelled.
            let (mut sent, mut received) = pg.batch(vec![op::send(vec![1u8], 1, 1)], vec![op::recv(vec![2u8], 1, 2)]);
            let Ok(Cancel::Back(buffer)) = received.pop().unwrap().cancel() else {
                panic!("an op that has not begun was not returned")
            };
            assert_eq!(buffer, [2]);
            let Ok(Cancel::Back(buffer)) = sent.pop().unwrap().cancel() else {
                panic!("an op that has not begun was not returned")
            };
            assert_eq!(buffer, [1]);
            let mut x = [3f32];
            pg.scope(|s| {
                let work = s.start(op::recv(&mut x, 1, 5));
                let Ok(Cancel::Back(x)) = work.cancel() else { panic!("an op that has not begun was not returned") };
                *x = [4.0];
            });
            assert_eq!(x, [4.0]);
            Ok(())
        })
        .unwrap();
}

/// An op that cannot be cancelled continues, and the error contains its handle.
#[test]
fn an_op_that_cannot_be_cancelled_continues() {
    let (pg, jobs) = held();
    let refused = pg.start(op::all_reduce(vec![0f32], SUM)).cancel().unwrap_err();
    let e = &refused.error;
    assert_eq!((e.kind(), e.status()), (&ErrorKind::Unsupported, Status::Rejected), "{e}");
    at_once(jobs.recv().unwrap());
    assert_eq!(refused.work.wait().unwrap(), [1.0]);
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let list = jobs.clone();
    let builder = common::builder(move |_| {
        let put = list.clone();
        puppet(move |job| put.lock().unwrap().push(job))
    });
    builder
        .run_ranks(2, |pg| {
            if pg.rank() == 1 {
                return Ok(());
            }
            let refused = pg.start(op::recv(vec![0f32], 1, 0)).cancel().unwrap_err();
            assert_eq!(*refused.error.kind(), ErrorKind::Unsupported, "{}", refused.error);
            at_once(jobs.lock().unwrap().pop().unwrap());
            assert_eq!(refused.work.wait()?, [1.0]);
            Ok(())
        })
        .unwrap();
}
