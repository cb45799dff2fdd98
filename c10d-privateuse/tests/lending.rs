//! Tests of a plugin's device memory while collectives use it, and of a device that misbehaves.
#![allow(unsafe_code)]

use crate::common;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use c10d_core::backend::Registry;
use c10d_core::device::{DeviceBuffer, DeviceRuntime, vendor};
use c10d_core::{Buf, BufMut, Builder, DType, Device, Error, ErrorKind, ProcessGroup, ReduceOp, Result, Span, op};
use c10d_privateuse::{Search, Verdict};

/// A limit that is reached only if something hangs.
const CAP: Duration = Duration::from_secs(60);

/// Device memory that c10d did not allocate, like another library's tensor.
struct Tensor {
    data: Vec<f32>,
    device: Device,
}

// SAFETY: the memory of `sum.c`'s device is in the heap. It exists as long as the value, which is its only owner.
unsafe impl Buf for Tensor {
    fn span(&mut self) -> Span {
        Span::new(self.data.as_mut_ptr().cast(), 0, self.data.len() as u64, DType::F32, self.device)
    }
}
// SAFETY: the same as for `Buf`.
unsafe impl BufMut for Tensor {}
// SAFETY: the same as for `Tensor`, which is borrowed exclusively for the op.
unsafe impl Buf for &mut Tensor {
    fn span(&mut self) -> Span {
        Tensor::span(self)
    }
}
// SAFETY: the same as for `Buf`.
unsafe impl BufMut for &mut Tensor {}

/// Loads a plugin whose device hangs in this function.
fn plugin(name: &str, function: &str) -> Builder {
    let dir = common::directory();
    let report =
        Search::new().file(common::sum(dir.path(), name, &format!("HONEST DEVICE HANGS_IN=\"{function}\""))).load();
    assert_eq!(report.decisions[0].verdict, Verdict::Loaded, "{}", report.decisions[0]);
    Builder::new().providers(&report.providers).backend(&format!("{name}:{name}"))
}

fn tensor(name: &str) -> Tensor {
    Tensor { data: vec![1.0; 8], device: Device::private(vendor(name), 0) }
}

/// Runs a body on a new thread, and fails if it does not return.
fn returns<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    std::thread::spawn(move || done.send(body()));
    wait.recv_timeout(CAP).expect("this must return")
}

/// Runs one op: on a borrowed tensor by `run` if `blocking`, else on an owned tensor by `start`.
fn run(pg: &ProcessGroup, name: &str, blocking: bool, timeout: Duration) -> Result<Vec<f32>, Error> {
    let mut x = tensor(name);
    if blocking {
        return pg
            .run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout))
            .map(drop)
            .map_err(Error::from)
            .map(|()| x.data);
    }
    pg.start(op::all_reduce(x, ReduceOp::Sum).timeout(timeout)).wait().map(|x| x.data).map_err(|e| e.error)
}

/// Runs an op that must fail with this text. If the machine was too busy to call the plugin, runs the op again with a
/// longer timeout.
fn fails(how: &str, attempt: impl Fn(Duration) -> Error) -> Error {
    let mut timeout = Duration::from_secs(1);
    loop {
        let e = attempt(timeout);
        if e.to_string().contains(how) || timeout > CAP / 4 {
            return e;
        }
        timeout *= 2;
    }
}

#[test]
fn a_retain_that_hangs_is_named() {
    for blocking in [true, false] {
        let e = returns(move || {
            let name = if blocking { "retains-blocking" } else { "retains-owned" };
            let builder = plugin(name, "retain");
            fails("did not return", |timeout| {
                run(&builder.clone().build().unwrap(), name, blocking, timeout).unwrap_err()
            })
        });
        assert_eq!(*e.kind(), ErrorKind::Plugin, "{e}");
        assert!(e.to_string().contains("retain(all_reduce): it did not return"), "{e}");
    }
}

#[test]
fn calls_end_although_release_hangs() {
    for blocking in [true, false] {
        let (x, e) = returns(move || {
            let name = if blocking { "releases-blocking" } else { "releases-owned" };
            let pg = plugin(name, "release").build().unwrap();
            let x = run(&pg, name, blocking, CAP).unwrap();
            (x, run(&pg, name, blocking, Duration::from_secs(1)).unwrap_err())
        });
        assert_eq!(x, [1.0; 8]);
        assert!(e.to_string().contains("still busy with an earlier operation"), "{e}");
    }
}

#[test]
fn a_call_ends_although_a_device_without_retain_hangs() {
    let e = returns(|| {
        let dir = common::directory();
        let file =
            common::plugin("device.c", &dir.path().join("x.so"), &["NAME=\"countless\"", "HANGS_IN=\"copy_out\""]);
        let mut providers = Search::new().file(file).load().providers;
        providers.push(&c10d_gloo_like::PROVIDER);
        let device: Arc<dyn DeviceRuntime> = Registry::collect(&providers).unwrap().device("countless").unwrap();
        let builder = Builder::new().providers(&providers).backend("countless:gloo-like");
        fails("stuck in copy_out", |timeout| {
            let pg = builder.clone().build().unwrap();
            let mut x = DeviceBuffer::from_slice(&device, 0, &[1f32; 8], CAP).unwrap();
            pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).map(drop).unwrap_err().error
        })
    });
    assert!(e.to_string().contains("device countless:0 has been stuck in copy_out"), "{e}");
}
