//! Measures the cost of core itself: calls to a backend that does nothing. The goal is less than 100 ns for a blocking
//! call.
#![allow(unsafe_code, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use c10d_core::backend::{Backend, Capabilities, Job, Provider, Registration};
use c10d_core::{Builder, DispatchKey, Error, ReduceOp, op};
use criterion::{Criterion, criterion_group, criterion_main};

struct Noop;

// SAFETY: `submit` completes each job before it returns, and uses no memory of the job.
unsafe impl Backend for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }
    fn capabilities(&self) -> &Capabilities {
        &Capabilities::ALL
    }
    fn submit(&self, job: Job) {
        job.complete(Ok(()));
    }
    fn abort(&self, _: &Error) {}
}

static PROVIDER: Provider = Provider {
    source: "bench",
    backends: &[Registration {
        name: "noop",
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &|_| Ok(Arc::new(Noop)),
    }],
    ..Provider::EMPTY
};

fn dispatch(c: &mut Criterion) {
    let pg = Builder::new().providers(&[&PROVIDER]).build().expect("a world of one");
    let (mut x, mut y) = (vec![1f32; 4], vec![1f32; 4]);
    let mut c = c.benchmark_group("dispatch");
    c.bench_function("all_reduce", |b| {
        b.iter(|| pg.all_reduce(black_box(&mut x), ReduceOp::Sum).map(drop).expect("ok"));
    });
    c.bench_function("all_gather_into", |b| {
        b.iter(|| pg.all_gather_into(black_box(&x), black_box(&mut y)).map(drop).expect("ok"));
    });
    c.bench_function("barrier", |b| b.iter(|| pg.barrier().expect("ok")));
    c.bench_function("start and wait", |b| {
        b.iter(|| {
            let work = pg.start(op::all_reduce(std::mem::take(&mut x), ReduceOp::Sum));
            x = work.wait().expect("ok");
        });
    });
    c.bench_function("scope, start and wait", |b| {
        b.iter(|| pg.scope(|s| s.start(op::all_reduce(&mut x, ReduceOp::Sum)).wait().map(drop)).expect("ok"));
    });
    let mut four = [[0f32; 4]; 4];
    c.bench_function("all_reduce_coalesced, 4 buffers", |b| {
        b.iter(|| pg.all_reduce_coalesced(four.iter_mut().collect(), ReduceOp::Sum).map(drop).expect("ok"));
    });
    c.bench_function("refused", |b| b.iter(|| pg.broadcast(black_box(&mut x), 9).map(drop).expect_err("no such root")));
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
