//! Tests of what waiting, dropping, leaking and panicking do to an operation, its buffers and the group.
#![allow(unsafe_code)]

use crate::common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use c10d_core::backend::{Job, let_go};
use c10d_core::{Buf, BufMut, Cancel, Error, ErrorKind, Outcome, ProcessGroup, ReduceOp, Span, Status, op};
use common::{block_on, group, puppet, within};

const SUM: ReduceOp = ReduceOp::Sum;

/// Adds 1 to every `f32` of the outputs.
fn add_one(job: &Job) {
    for span in job.request().outputs() {
        let p = span.host_ptr().unwrap().cast::<f32>();
        for i in 0..span.count() {
            // SAFETY: it is within the span, and the job is not complete.
            unsafe { *p.add(i) += 1.0 };
        }
    }
}

fn later(job: Job) {
    std::thread::spawn(move || {
        sleep(Duration::from_millis(20));
        add_one(&job);
        job.complete(Ok(()));
    });
}

fn at_once(job: Job) {
    add_one(&job);
    job.complete(Ok(()));
}

/// Makes a group whose jobs are sent to a channel.
fn held() -> (ProcessGroup, std::sync::mpsc::Receiver<Job>) {
    let (tx, rx) = channel();
    let tx: Mutex<Sender<Job>> = Mutex::new(tx);
    (group(puppet(move |job| tx.lock().unwrap().send(job).unwrap())), rx)
}

/// A buffer that reports when it is dropped.
struct Told(Vec<f32>, Arc<AtomicUsize>);

// SAFETY: the vector's memory does not move until the drop.
unsafe impl Buf for Told {
    fn span(&mut self) -> Span {
        Span::host(self.0.as_mut_ptr(), self.0.len())
    }
}
// SAFETY: it is the only owner.
unsafe impl BufMut for Told {}

impl Drop for Told {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn every_form_gives_the_buffer_back() {
    for submit in [at_once as fn(Job), later] {
        let pg = group(puppet(submit));
        let mut x = vec![1f32; 4];
        pg.all_reduce(&mut x, SUM).unwrap();
        let x = pg.start(op::all_reduce(x, SUM)).wait().unwrap();
        let mut x = block_on(pg.start(op::all_reduce(x, SUM))).unwrap();
        let mut y = [10f32; 2];
        pg.scope(|s| {
            let a = s.start(op::all_reduce(&mut x, SUM));
            let b = s.start(op::all_reduce(&mut y, SUM));
            block_on(b)?;
            a.wait().map(drop)
        })
        .unwrap();
        assert_eq!((x, y), (vec![5.0; 4], [11.0; 2]));
    }
}

#[test]
fn a_dropped_handle_frees_the_buffer_when_the_op_is_over() {
    let (pg, jobs) = held();
    let drops = Arc::new(AtomicUsize::new(0));
    drop(pg.start(op::all_reduce(Told(vec![0.0; 4], drops.clone()), SUM)));
    let job = jobs.recv().unwrap();
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    at_once(job);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

#[test]
fn a_leaked_handle_leaks_the_buffer_and_nothing_dangles() {
    let (pg, jobs) = held();
    let drops = Arc::new(AtomicUsize::new(0));
    std::mem::forget(pg.start(op::all_reduce(Told(vec![0.0; 4], drops.clone()), SUM)));
    at_once(jobs.recv().unwrap());
    assert_eq!(drops.load(Ordering::SeqCst), 0);
}

#[test]
fn a_scope_waits_for_dropped_and_leaked_handles() {
    let pg = group(puppet(later));
    let (mut x, mut y) = ([0f32; 3], [0f32; 3]);
    pg.scope(|s| {
        drop(s.start(op::all_reduce(&mut x, SUM)));
        std::mem::forget(s.start(op::all_reduce(&mut y, SUM)));
    });
    assert_eq!((x, y), ([1.0; 3], [1.0; 3]));
    // This also holds if the body panics.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pg.scope(|s| {
            std::mem::forget(s.start(op::all_reduce(&mut x, SUM)));
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(x, [2.0; 3]);
}

#[test]
fn wait_timeout_is_a_look() {
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

/// A poll registers its waker; a later wait replaces it while the operation is being completed.
#[test]
fn waiting_after_polling() {
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
use std::future::Future;

#[test]
fn an_abandoned_job_says_so() {
    let pg = group(puppet(drop));
    let e = pg.all_reduce(&mut [0f32], SUM).unwrap_err();
    assert_eq!(*e.kind(), ErrorKind::Abandoned);
    assert_eq!((e.report().backend, e.report().seq, e.report().rank), ("puppet", Some(0), Some(0)));
    assert!(e.report().op.is_some() && e.report().group.is_some() && e.report().deadline.is_some());
    let pg = group(puppet(drop));
    let e = pg.start(op::all_reduce(vec![3f32], SUM)).wait().unwrap_err();
    assert_eq!((e.error.kind(), e.buffer), (&ErrorKind::Abandoned, Some(vec![3.0])));
}

/// As with started calls, the owned buffers of a blocking call are returned if it is rejected or fails.
#[test]
fn a_blocking_call_that_fails_gives_the_buffers_back() {
    let pg = group(puppet(|job| job.complete(Err(Error::new(ErrorKind::Internal, "on the way")))));
    let refused = pg.run(op::all_gather_into(vec![1f32; 3], vec![0f32; 2])).unwrap_err();
    assert_eq!((refused.error.status(), refused.buffer), (Status::Rejected, Some((vec![1.0; 3], vec![0.0; 2]))));
    let failed = pg.run(op::all_reduce(vec![3f32], SUM)).unwrap_err();
    assert_eq!((failed.error.kind(), failed.buffer), (&ErrorKind::Internal, Some(vec![3.0])));
    let over = pg.run(op::recv_any_source(vec![4f32], 0)).unwrap_err();
    assert_eq!(over.buffer, Some((vec![4.0], u32::MAX)), "nobody sent it");
}

/// `submit` passes the job to a thread, then panics. The thread writes later, to a buffer that still exists.
#[test]
fn a_panic_in_submit_leaves_no_dangling_frame() {
    let left = Arc::new(AtomicBool::new(false));
    let (has_left, early) = (left.clone(), Arc::new(AtomicBool::new(false)));
    let too_early = early.clone();
    let pg = group(puppet(move |job| {
        let (has_left, too_early) = (has_left.clone(), too_early.clone());
        std::thread::spawn(move || {
            sleep(Duration::from_millis(300));
            if has_left.load(Ordering::SeqCst) {
                too_early.store(true, Ordering::SeqCst);
                std::mem::forget(job);
            } else {
                at_once(job);
            }
        });
        panic!("on purpose");
    }));
    let mut x = vec![0f32; 1000];
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pg.all_reduce(&mut x, SUM).map(drop)));
    left.store(true, Ordering::SeqCst);
    assert!(panicked.is_err());
    assert_eq!(x, vec![1.0; 1000], "the frame was left before the job was back");
    assert!(!early.load(Ordering::SeqCst));
    assert_eq!(pg.failure().map(Error::kind), Some(&ErrorKind::Internal));
    let pg = group(puppet(|_job| panic!("on purpose")));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pg.start(op::all_reduce(x, SUM))));
    assert!(panicked.is_err() && pg.failure().is_some());
}

#[test]
fn kept_buffers_do_not_come_back() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let refused = Arc::new(AtomicBool::new(false));
    let (keep, told) = (held.clone(), refused.clone());
    let pg = group(puppet(move |job| {
        let spans: Vec<Span> = job.request().outputs().to_vec();
        match job.fail_keeping(Error::new(ErrorKind::Plugin, "hangs")) {
            Ok(_) => keep.lock().unwrap().extend(spans),
            Err(job) => {
                told.store(true, Ordering::SeqCst);
                job.complete(Err(Error::unsupported("it is borrowed")));
            }
        }
    }));
    // Operations on borrowed memory cannot be failed with the buffers kept.
    let mut x = [1f32; 4];
    pg.all_reduce(&mut x, SUM).unwrap_err();
    assert!(refused.swap(false, Ordering::SeqCst));
    pg.scope(|s| s.start(op::all_reduce(&mut x, SUM)).wait().map(drop)).unwrap_err();
    assert!(refused.swap(false, Ordering::SeqCst) && held.lock().unwrap().is_empty());
    let drops = Arc::new(AtomicUsize::new(0));
    let e = pg.start(op::all_reduce(Told(vec![1.0; 4], drops.clone()), SUM)).wait().map(drop).unwrap_err();
    assert!(e.buffer.is_none() && *e.error.kind() == ErrorKind::Plugin);
    // A late write goes to leaked memory, not to memory with another owner.
    let span = held.lock().unwrap()[0];
    // SAFETY: the buffers are leaked, so they still exist.
    unsafe { *span.host_ptr().unwrap().cast::<f32>() = 7.0 };
    assert_eq!(drops.load(Ordering::SeqCst), 0);
}

/// If a backend never completes, the wait of an owned call still returns, shortly after the deadline.
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
    // The job can still be completed.
    at_once(jobs.recv().unwrap());
}

/// If a backend keeps borrowed memory after the deadline, the group is failed and aborted, and the caller continues to
/// wait.
#[test]
fn a_borrowed_wait_aborts_and_waits_on() {
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
fn abort_ends_what_is_in_flight_and_what_comes() {
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let (put, take) = (jobs.clone(), jobs.clone());
    let pg = group(puppet(move |job| put.lock().unwrap().push(job)).on_abort(move |cause| {
        std::mem::take(&mut *take.lock().unwrap()).into_iter().for_each(|j| j.complete(Err(cause.clone())));
    }));
    let other = pg.clone();
    let blocked = std::thread::spawn(move || other.all_reduce(&mut [0f32], SUM).map(drop).unwrap_err());
    let work = pg.start(op::send(vec![0f32], 0, 0));
    assert!(work.wait().is_err(), "a message to oneself is refused");
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

/// Four threads, blocking and asynchronous: the backend gets the collectives in the order of their numbers.
#[test]
fn a_lane_gets_its_calls_in_order() {
    let count = if cfg!(miri) { 20 } else { 2000 };
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let order = seen.clone();
    let pg = group(puppet(move |job| {
        let request = job.request();
        assert_eq!(u64::from(request.fingerprint.seq), request.seq);
        if request.seq.is_multiple_of(8) {
            // Without ordered turns, other calls would overtake here.
            std::thread::yield_now();
        }
        order.lock().unwrap().push(request.seq);
        job.complete(Ok(()));
    }));
    std::thread::scope(|s| {
        for t in 0..4 {
            let pg = &pg;
            s.spawn(move || {
                for i in 0..count {
                    if (i + t) % 2 == 0 {
                        pg.all_reduce(&mut [0f32], SUM).unwrap();
                    } else {
                        pg.start(op::all_reduce(vec![0f32], SUM)).wait().unwrap();
                    }
                }
            });
        }
    });
    assert!(seen.lock().unwrap().iter().copied().eq(0..4 * count));
}

/// Point-to-point ops have no turns: a blocked `recv` does not block another thread's `send`.
#[test]
fn point_to_point_takes_no_turn() {
    let store = Arc::new(c10d_core::HashStore::new());
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let put = jobs.clone();
    let b = common::builder(move |_| {
        let put = put.clone();
        puppet(move |job| match job.request().op {
            c10d_core::OpKind::Recv => put.lock().unwrap().push(job),
            _ => job.complete(Ok(())),
        })
    });
    let groups: Vec<_> = std::thread::scope(|s| {
        let make = |rank| b.clone().rank(rank).size(2).store(store.clone());
        let threads = [0, 1].map(|rank| s.spawn(move || make(rank).build().unwrap()));
        threads.map(|t| t.join().unwrap()).into()
    });
    std::thread::scope(|s| {
        let receiver = s.spawn(|| groups[0].recv(vec![0f32], 1, 5));
        while jobs.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        groups[0].send(&[0f32], 1, 5).unwrap();
        groups[0].barrier().unwrap();
        jobs.lock().unwrap().pop().unwrap().complete(Ok(()));
        receiver.join().unwrap().unwrap();
    });
}

/// A `bool` from a peer is a valid `bool` for the caller, also with bare spans, before the call is done.
#[test]
fn bools_are_bools() {
    let pg = group(puppet(|job| {
        for span in job.request().outputs() {
            // SAFETY: it is within the span, and the job is not complete.
            unsafe { span.host_ptr().unwrap().write_bytes(0x40, span.count()) };
        }
        job.complete(Ok(()));
    }));
    let mut x = [false; 3];
    pg.broadcast(&mut x, 0).unwrap();
    assert_eq!(x, [true; 3]);
    assert_eq!(pg.start(op::broadcast(vec![false; 3], 0)).wait().unwrap(), [true; 3]);
    let mut bytes = [0u8; 3];
    let outputs = vec![Span::host(bytes.as_mut_ptr().cast::<bool>(), 3)];
    let spans = c10d_core::RawSpans { outputs, ..Default::default() };
    // SAFETY: `bytes` outlives the work, and nothing else uses it.
    let work = unsafe { pg.submit_raw(c10d_core::OpKind::Broadcast, Default::default(), None, spans) };
    assert!(work.is_done());
    assert_eq!(bytes, [1; 3]);
    work.wait().map(|_: Outcome| ()).unwrap();
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

/// Polling or waiting for a finished future again is an error of its caller only.
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
        let std::task::Poll::Ready(Err(e)) = std::pin::Pin::new(&mut work).poll(&mut cx) else { panic!("a result") };
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
        let std::task::Poll::Ready(Err(e)) = std::pin::Pin::new(&mut work).poll(&mut cx) else { panic!("a result") };
        again(e);
        again(work.wait().unwrap_err());
    });
    pg.all_reduce(&mut x, SUM).unwrap();
    assert_eq!(x, [2.0]);
}

/// A panic's payload that panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::panic_any("the payload");
        }
    }
}

/// Panics with a bomb when it is woken.
struct Alarm;

impl std::task::Wake for Alarm {
    fn wake(self: Arc<Self>) {
        std::panic::panic_any(Bomb);
    }
}

/// A buffer whose drop panics.
struct Cursed(Vec<f32>);

// SAFETY: the vector's memory does not move until the drop.
unsafe impl Buf for Cursed {
    fn span(&mut self) -> Span {
        Span::host(self.0.as_mut_ptr(), self.0.len())
    }
}
// SAFETY: it is the only owner.
unsafe impl BufMut for Cursed {}

impl Drop for Cursed {
    fn drop(&mut self) {
        std::panic::panic_any(Bomb);
    }
}

/// A backend's thread completes jobs. A waker or the drop of a buffer that panics does not end the thread.
#[test]
fn a_completing_thread_outlives_foreign_code() {
    let (pg, jobs) = held();
    let waker = Arc::new(Alarm).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut work = pg.start(op::all_reduce(vec![0f32], SUM));
    assert!(std::pin::Pin::new(&mut work).poll(&mut cx).is_pending());
    drop(pg.start(op::all_reduce(Cursed(vec![0.0]), SUM)));
    within(Duration::from_secs(30), || {
        std::thread::scope(|s| {
            s.spawn(move || {
                // This is the backend's thread, which must reach its end.
                (0..3).for_each(|_| at_once(jobs.recv().unwrap()));
            });
            pg.scope(|s| drop(s.start(op::all_reduce(Cursed(vec![0.0]), SUM))));
        });
    });
    assert_eq!(work.wait().unwrap(), [1.0]);
    // If the abort panics, the caller still gets its error.
    let pg = group(puppet(|job| job.complete(Err(Error::new(ErrorKind::Device, "gone")))).on_abort(|_| panic!("no")));
    assert_eq!(*pg.barrier().unwrap_err().kind(), ErrorKind::Device);
}

/// A subscriber that panics at every error event.
struct Horrified;

impl tracing::Subscriber for Horrified {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        std::panic::panic_any(Bomb);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// If a subscriber panics when the failure of a group is reported, the caller still gets its error, and the backend
/// still ends.
#[test]
fn a_failure_is_one_whatever_a_subscriber_does() {
    let aborts = Arc::new(AtomicUsize::new(0));
    let count = aborts.clone();
    let fail = |job: Job| job.complete(Err(Error::new(ErrorKind::Device, "gone")));
    let pg = group(puppet(fail).on_abort(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let e = tracing::subscriber::with_default(Horrified, || pg.barrier().unwrap_err());
    assert_eq!((e.kind(), aborts.load(Ordering::SeqCst)), (&ErrorKind::Device, 1));
}

/// Two ranks whose backends keep messages in a list until the test takes them.
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
fn a_message_is_taken_back_or_too_late() {
    let (builder, jobs) = mailboxes();
    builder
        .run_ranks(2, |pg| {
            if pg.rank() == 1 {
                return Ok(());
            }
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            // The handle was polled before, as under a runtime's timeout.
            let mut work = pg.start(op::recv(vec![7f32], 1, 5));
            assert!(std::pin::Pin::new(&mut work).poll(&mut cx).is_pending());
            let other = pg.start(op::recv_any_source(vec![8f32], 5));
            let Ok(Cancel::Back(buffer)) = work.cancel() else { panic!("it was not begun") };
            assert_eq!(buffer, [7.0]);
            let Ok(Cancel::Back((buffer, from))) = other.cancel() else { panic!("it was not begun") };
            assert_eq!((buffer, from), (vec![8.0], u32::MAX));
            assert!(jobs.lock().unwrap().is_empty() && pg.failure().is_none());
            // The message is being sent, so the backend no longer has it in its list.
            let work = pg.start(op::recv(vec![7f32], 1, 5));
            let job = jobs.lock().unwrap().pop().unwrap();
            let Ok(Cancel::TooLate(work)) = work.cancel() else { panic!("it is on its way") };
            at_once(job);
            let Ok(Cancel::TooLate(work)) = work.cancel() else { panic!("it is over") };
            assert_eq!(work.wait()?, [8.0]);
            // In a batch, each is cancelled separately; borrowed buffers also work.
            let (mut sent, mut received) = pg.batch(vec![op::send(vec![1u8], 1, 1)], vec![op::recv(vec![2u8], 1, 2)]);
            let Ok(Cancel::Back(buffer)) = received.pop().unwrap().cancel() else { panic!("it was not begun") };
            assert_eq!(buffer, [2]);
            let Ok(Cancel::Back(buffer)) = sent.pop().unwrap().cancel() else { panic!("it was not begun") };
            assert_eq!(buffer, [1]);
            let mut x = [3f32];
            pg.scope(|s| {
                let work = s.start(op::recv(&mut x, 1, 5));
                let Ok(Cancel::Back(x)) = work.cancel() else { panic!("it was not begun") };
                *x = [4.0];
            });
            assert_eq!(x, [4.0]);
            Ok(())
        })
        .unwrap();
}

/// An op that cannot be cancelled continues, and its handle remains.
#[test]
fn unsupported_leaves_the_op_as_it_was() {
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

/// The elapsed time of an op is counted from its call. Every error of an op that a backend had reports it.
#[test]
fn errors_say_how_long_it_took() {
    let fail = |job: Job| job.complete(Err(Error::new(ErrorKind::Device, "at once")));
    assert!(group(puppet(fail)).barrier().unwrap_err().report().elapsed.is_some());
    let e = group(puppet(fail)).start(op::all_reduce(vec![0f32], SUM)).wait().unwrap_err();
    assert!(e.error.report().elapsed.is_some());
    let (pg, jobs) = held();
    let work = pg.start(op::all_reduce(vec![0f32], SUM));
    sleep(Duration::from_millis(30));
    fail(jobs.recv().unwrap());
    let e = work.wait().unwrap_err();
    assert!(e.error.report().elapsed.unwrap() >= Duration::from_millis(30), "{}", e.error);
}
