//! Tests who owns the buffers while an op runs, and who gets them back.

use std::sync::atomic::AtomicBool;

use c10d_core::{Error, ErrorKind, Outcome, Status, op};

use super::*;

/// A buffer that counts its drops.
struct Counted(Vec<f32>, Arc<AtomicUsize>);

// SAFETY: the vector's memory does not move until the drop.
unsafe impl Buf for Counted {
    fn span(&mut self) -> Span {
        Span::host(self.0.as_mut_ptr(), self.0.len())
    }
}

// SAFETY: the value is the only owner of the memory.
unsafe impl BufMut for Counted {}

impl Drop for Counted {
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
    drop(pg.start(op::all_reduce(Counted(vec![0.0; 4], drops.clone()), SUM)));
    let job = jobs.recv().unwrap();
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    at_once(job);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

#[test]
fn a_leaked_handle_leaks_the_buffer() {
    let (pg, jobs) = held();
    let drops = Arc::new(AtomicUsize::new(0));
    std::mem::forget(pg.start(op::all_reduce(Counted(vec![0.0; 4], drops.clone()), SUM)));
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
    // The scope also waits if its body panics.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pg.scope(|s| {
            std::mem::forget(s.start(op::all_reduce(&mut x, SUM)));
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(x, [2.0; 3]);
}

/// If a blocking call is rejected or fails, it returns its owned buffers.
#[test]
fn a_blocking_call_that_fails_gives_the_buffers_back() {
    let pg = group(puppet(|job| job.complete(Err(Error::new(ErrorKind::Internal, "on the way")))));
    let refused = pg.run(op::all_gather_into(vec![1f32; 3], vec![0f32; 2])).unwrap_err();
    assert_eq!((refused.error.status(), refused.buffer), (Status::Rejected, Some((vec![1.0; 3], vec![0.0; 2]))));
    let failed = pg.run(op::all_reduce(vec![3f32], SUM)).unwrap_err();
    assert_eq!((failed.error.kind(), failed.buffer), (&ErrorKind::Internal, Some(vec![3.0])));
    let over = pg.run(op::recv_any_source(vec![4f32], 0)).unwrap_err();
    assert_eq!(over.buffer, Some((vec![4.0], u32::MAX)), "no rank sent the message");
}

#[test]
fn buffers_that_a_backend_keeps_are_not_returned() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let refused = Arc::new(AtomicBool::new(false));
    let (keep, was_refused) = (held.clone(), refused.clone());
    let pg = group(puppet(move |job| {
        let spans: Vec<Span> = job.request().outputs().to_vec();
        match job.fail_keeping(Error::new(ErrorKind::Plugin, "hangs")) {
            Ok(_) => keep.lock().unwrap().extend(spans),
            Err(job) => {
                was_refused.store(true, Ordering::SeqCst);
                job.complete(Err(Error::unsupported("the memory is borrowed")));
            }
        }
    }));
    // If the buffers are borrowed, `fail_keeping` returns the job, since the call must not end while the backend keeps
    // its memory.
    let mut x = [1f32; 4];
    pg.all_reduce(&mut x, SUM).unwrap_err();
    assert!(refused.swap(false, Ordering::SeqCst));
    pg.scope(|s| s.start(op::all_reduce(&mut x, SUM)).wait().map(drop)).unwrap_err();
    assert!(refused.swap(false, Ordering::SeqCst) && held.lock().unwrap().is_empty());
    let drops = Arc::new(AtomicUsize::new(0));
    let e = pg.start(op::all_reduce(Counted(vec![1.0; 4], drops.clone()), SUM)).wait().map(drop).unwrap_err();
    assert!(e.buffer.is_none() && *e.error.kind() == ErrorKind::Plugin);
    // A late write by the backend goes to leaked memory.
    let span = held.lock().unwrap()[0];
    // SAFETY: the buffers are leaked, so they still exist.
    unsafe { *span.host_ptr().unwrap().cast::<f32>() = 7.0 };
    assert_eq!(drops.load(Ordering::SeqCst), 0);
}

/// A peer's byte for a `bool` is made 0 or 1 before the call is done, even if the call has spans instead of buffers.
#[test]
fn received_bools_are_made_valid() {
    let pg = group(puppet(|job| {
        for span in job.request().outputs() {
            // SAFETY: the address is within the span, and the job is not complete.
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
