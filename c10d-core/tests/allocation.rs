//! Tests how often core allocates memory for a call: never if it blocks, once if it is started.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use c10d_core::{ReduceOp, op};
use common::{group, puppet};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: it passes all calls to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller guarantees it.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees it.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns how often `body` allocates on this thread.
fn allocations(body: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    body();
    ALLOCATIONS.get() - before
}

#[test]
fn blocking_calls_allocate_nothing() {
    let pg = group(puppet(|job| job.complete(Ok(()))));
    let (mut x, mut y) = (vec![1f32; 8], vec![0f32; 8]);
    let warm = |x: &mut Vec<f32>| _ = pg.all_reduce(x, ReduceOp::Sum).unwrap();
    warm(&mut x);
    let rounds = 100;
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1, "the allocator counts an allocation");
    let count = |name: &str, body: &mut dyn FnMut()| {
        assert_eq!(allocations(|| (0..rounds).for_each(|_| body())), 0, "{name} allocates");
    };
    count("all_reduce", &mut || warm(&mut x));
    count("premul", &mut || _ = pg.all_reduce(&mut x, ReduceOp::PreMulSum(0.5)).unwrap());
    count("broadcast", &mut || _ = pg.broadcast(&mut x, 0).unwrap());
    count("reduce", &mut || _ = pg.reduce(&mut x, ReduceOp::Max, 0).unwrap());
    count("all_gather_into", &mut || _ = pg.all_gather_into(&x, &mut y).unwrap());
    count("reduce_scatter_into", &mut || _ = pg.reduce_scatter_into(&x, &mut y, ReduceOp::Sum).unwrap());
    count("all_to_all_single", &mut || _ = pg.all_to_all_single(&x, &mut y).unwrap());
    count("barrier", &mut || pg.barrier().unwrap());
    count("monitored_barrier", &mut || pg.monitored_barrier(c10d_core::options::Missing::All).unwrap());
}

#[test]
fn a_started_call_allocates_once() {
    let pg = group(puppet(|job| job.complete(Ok(()))));
    let mut x = vec![1f32; 8];
    let work = |x| pg.start(op::all_reduce(x, ReduceOp::Sum)).wait().unwrap();
    x = work(x);
    assert_eq!(allocations(|| x = work(std::mem::take(&mut x))), 1);
    // The scope allocates its counter, and each call allocates once.
    let mut y = vec![1f32; 8];
    let mut scoped = || {
        pg.scope(|s| {
            s.start(op::all_reduce(&mut x, ReduceOp::Sum)).wait().map(drop)?;
            s.start(op::all_reduce(&mut y, ReduceOp::Sum)).wait().map(drop)
        })
    };
    assert_eq!(allocations(|| scoped().unwrap()), 3);
}
