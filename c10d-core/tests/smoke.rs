//! A backend that does nothing, called in every way.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::registry::{Provider, Registration};
use c10d_core::{Backend, Capabilities, DispatchKey, Error, Job, ProcessGroup, ReduceOp, op};

struct Noop;

// SAFETY: completes at once, keeps nothing.
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
    source: "smoke",
    backends: &[Registration {
        name: "noop",
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &|_| Ok(Arc::new(Noop)),
    }],
    kernels: &[],
};
c10d_core::submit!(PROVIDER);

#[test]
fn all_forms() {
    let pg = ProcessGroup::builder().build().unwrap();
    let mut x = vec![1f32; 4];
    pg.all_reduce(&mut x, ReduceOp::Sum).unwrap();
    let x = pg.start(op::all_reduce(x, ReduceOp::Sum)).wait().unwrap();
    let mut x = x;
    pg.scope(|s| s.start(op::all_reduce(&mut x, ReduceOp::Sum)).wait().map(drop)).unwrap();
    assert_eq!(x, [1.0; 4]);
    let t = std::time::Instant::now();
    for _ in 0..1_000_000 {
        pg.all_reduce(&mut x, ReduceOp::Sum).unwrap();
    }
    println!("{:?} per op", t.elapsed() / 1_000_000);
    let e = pg.all_reduce(&mut vec![1i32], ReduceOp::Avg).unwrap_err();
    println!("{e}");
    let e = pg.start(op::broadcast(vec![1i32], 3)).wait().unwrap_err();
    assert_eq!(e.buffer, Some(vec![1]));
    println!("{e}");
}
