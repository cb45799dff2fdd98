//! Tests panics of backends, wakers, buffers and subscribers.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use c10d_core::{Error, ErrorKind, op};

use super::*;

/// `submit` passes the job to a thread, then panics. The call must not return before the thread, which writes to the
/// caller's buffer, has completed the job.
#[test]
fn a_panic_in_submit_leaves_no_dangling_frame() {
    let left = Arc::new(AtomicBool::new(false));
    let (has_left, early) = (left.clone(), Arc::new(AtomicBool::new(false)));
    let too_early = early.clone();
    let group_of_thread: Arc<OnceLock<ProcessGroup>> = Arc::default();
    let its_group = group_of_thread.clone();
    let pg = group(puppet(move |job| {
        let (has_left, too_early, its_group) = (has_left.clone(), too_early.clone(), its_group.clone());
        std::thread::spawn(move || {
            // Core catches the panic and fails the group. A call that did not wait for its job would return during this
            // thread's sleep.
            let begun = std::time::Instant::now();
            while its_group.get().unwrap().failure().is_none() && begun.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(20));
            if has_left.load(Ordering::SeqCst) {
                too_early.store(true, Ordering::SeqCst);
                std::mem::forget(job);
            } else {
                at_once(job);
            }
        });
        panic!("on purpose");
    }));
    assert!(group_of_thread.set(pg.clone()).is_ok());
    let mut x = vec![0f32; 1000];
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pg.all_reduce(&mut x, SUM).map(drop)));
    left.store(true, Ordering::SeqCst);
    assert!(panicked.is_err());
    assert_eq!(x, vec![1.0; 1000], "the call returned before its job was completed");
    assert!(!early.load(Ordering::SeqCst));
    assert_eq!(pg.failure().map(Error::kind), Some(&ErrorKind::Internal));
    let pg = group(puppet(|_job| panic!("on purpose")));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pg.start(op::all_reduce(x, SUM))));
    assert!(panicked.is_err() && pg.failure().is_some());
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

/// A waker that panics with a [`Bomb`] as the payload.
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

// SAFETY: the value is the only owner of the memory.
unsafe impl BufMut for Cursed {}

impl Drop for Cursed {
    fn drop(&mut self) {
        std::panic::panic_any(Bomb);
    }
}

/// A backend's thread that completes jobs survives panics of wakers and of the drops of buffers.
#[test]
fn panics_of_foreign_code_do_not_end_a_completing_thread() {
    let (pg, jobs) = held();
    let waker = Arc::new(Alarm).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut work = pg.start(op::all_reduce(vec![0f32], SUM));
    assert!(std::pin::Pin::new(&mut work).poll(&mut cx).is_pending());
    drop(pg.start(op::all_reduce(Cursed(vec![0.0]), SUM)));
    within(Duration::from_secs(30), || {
        std::thread::scope(|s| {
            s.spawn(move || {
                // The backend's thread must reach its end.
                (0..3).for_each(|_| at_once(jobs.recv().unwrap()));
            });
            pg.scope(|s| drop(s.start(op::all_reduce(Cursed(vec![0.0]), SUM))));
        });
    });
    assert_eq!(work.wait().unwrap(), [1.0]);
    // If the backend's `abort` panics, the caller still gets its error.
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

/// If a subscriber panics when the failure of a group is reported, the caller gets its error, and core aborts the
/// backend.
#[test]
fn a_panicking_subscriber_does_not_hide_a_failure() {
    let aborts = Arc::new(AtomicUsize::new(0));
    let count = aborts.clone();
    let fail = |job: Job| job.complete(Err(Error::new(ErrorKind::Device, "gone")));
    let pg = group(puppet(fail).on_abort(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let e = tracing::subscriber::with_default(Horrified, || pg.barrier().unwrap_err());
    assert_eq!((e.kind(), aborts.load(Ordering::SeqCst)), (&ErrorKind::Device, 1));
}
