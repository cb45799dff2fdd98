//! SparseCUDA through a device whose memory the host cannot touch.

mod common;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::registry::{DeviceRegistration, Provider};
use c10d_core::{Buf, Coo, DeviceCoo, DispatchKey, ErrorKind, ReduceOp, op};
use c10d_guarded::Guarded;
use common::{builder, check, reference};

const CAP: Duration = Duration::from_secs(20);

static RUNTIME: LazyLock<Arc<Guarded>> = LazyLock::new(|| Arc::new(Guarded::cuda()));
static PROVIDER: Provider = Provider {
    source: "cuda",
    devices: &[DeviceRegistration { name: "cuda", key: DispatchKey::Cuda, open: &|| Ok(RUNTIME.clone()) }],
    ..Provider::EMPTY
};

fn on_device(t: &Coo<f32>, index: u16) -> c10d_core::Result<DeviceCoo> {
    let runtime: Arc<dyn DeviceRuntime> = RUNTIME.clone();
    let indices = DeviceBuffer::from_slice(&runtime, index, t.indices(), CAP)?;
    let values = DeviceBuffer::from_slice(&runtime, index, t.values(), CAP)?;
    DeviceCoo::new(t.shape(), t.sparse_dim(), indices, values)
}

fn on_host(t: &DeviceCoo) -> c10d_core::Result<Coo<f32>> {
    let (indices, values) = (t.indices().to_vec(CAP)?, t.values().to_vec(CAP)?);
    let host = Coo::new(t.shape(), t.sparse_dim(), indices, values)?;
    Ok(if t.is_coalesced() { host.assume_coalesced() } else { host })
}

#[test]
fn tensors_on_a_device_are_summed() {
    for nnz in [0, 5, 4000] {
        let tensor = |rank: i64| {
            let indices = (0..nnz).map(|i| (7 * i + rank) % 9000).rev().collect();
            Coo::new([9000, 2], 1, indices, (0..2 * nnz).map(|i| (i % 50 + rank) as f32).collect()).unwrap()
        };
        let want = reference(&[tensor(0), tensor(1), tensor(2)], |a, b| a + b);
        let group = builder().providers(&[&PROVIDER]).backend("cuda:gloo-like,cpu:gloo-like");
        let results = c10d_core::run_ranks(3, group, |pg| {
            assert!(pg.backend(DispatchKey::SparseCuda)?.contains("gloo-like"));
            let mine = on_device(&tensor(pg.rank().into()), pg.rank() as u16)?;
            let sum = pg.all_reduce(mine, ReduceOp::Sum)?;
            let places = [sum.indices(), sum.values()].map(|mut buffer| Buf::span(&mut buffer).device().index());
            assert_eq!(places, [pg.rank() as u16; 2], "where its tensor was");
            let started =
                pg.start(op::all_reduce(on_device(&tensor(pg.rank().into()), pg.rank() as u16)?, ReduceOp::Sum));
            let (sum, started) = (on_host(&sum)?, on_host(&started.wait()?)?);
            assert!(sum == started);
            let mut replaced = on_device(&tensor(pg.rank().into()), pg.rank() as u16)?;
            pg.all_reduce(&mut replaced, ReduceOp::Sum)?;
            assert!(on_host(&replaced)? == sum);
            pg.shutdown()?;
            Ok(sum)
        });
        for result in results.unwrap() {
            check(&result, &want).unwrap();
        }
    }
}

#[test]
fn a_device_has_indices_of_one_type() {
    let runtime: Arc<dyn DeviceRuntime> = RUNTIME.clone();
    let buffer = || DeviceBuffer::from_slice(&runtime, 0, &[1f32], CAP).unwrap();
    let e = DeviceCoo::new([9], 1, buffer(), buffer()).unwrap_err();
    assert_eq!(*e.kind(), ErrorKind::InvalidArgument);
}
