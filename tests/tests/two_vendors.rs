//! Two vendors linked into one program. One group uses buffers of both vendors and buffers in host memory.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use c10d::backend::{DeviceRegistration, Provider};
use c10d::device::{DeviceBuffer, DeviceRuntime};
use c10d::{DispatchKey, ErrorKind, ReduceOp, Result};
use c10d_guarded::Guarded;

const CAP: Duration = Duration::from_secs(30);

static OTHER: Provider = Provider {
    source: "other-vendor",
    devices: &[DeviceRegistration { name: "other", key: DispatchKey::PrivateUse1, open: &|| Ok(other()) }],
    ..Provider::EMPTY
};
c10d_core::submit!(OTHER);

fn other() -> Arc<Guarded> {
    static RUNTIME: OnceLock<Arc<Guarded>> = OnceLock::new();
    RUNTIME.get_or_init(|| Arc::new(Guarded::new("other"))).clone()
}

/// Returns the sum of 1 + rank over all ranks. The values and the sum are on a vendor's device; the CPU backend adds
/// them.
fn sum(pg: &c10d::ProcessGroup, vendor: &Arc<dyn DeviceRuntime>) -> Result<Vec<i32>> {
    let mut x = DeviceBuffer::from_slice(vendor, 0, &vec![pg.rank() as i32 + 1; 50_000], CAP)?;
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    x.to_vec(CAP)
}

#[test]
fn two_vendors_serve_one_group() {
    let vendors: [Arc<dyn DeviceRuntime>; 2] = [c10d_guarded::runtime(), other()];
    assert_ne!(vendors[0].device(0), vendors[1].device(0));
    let map = "cpu:gloo-like,guarded:gloo-like,other:gloo-like";
    c10d::builder()
        .backend(map)
        .timeout(CAP)
        .run_ranks(3, |pg| {
            for vendor in &vendors {
                assert_eq!(sum(&pg, vendor)?, vec![6; 50_000], "{}", vendor.name());
            }
            let mut x = [pg.rank()];
            pg.all_reduce(&mut x, ReduceOp::Max)?;
            assert_eq!(x, [2]);
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn one_vendors_group_does_not_take_the_others_buffers() {
    let vendors: [Arc<dyn DeviceRuntime>; 2] = [c10d_guarded::runtime(), other()];
    c10d::builder()
        .backend("other:gloo-like")
        .timeout(CAP)
        .run_ranks(2, |pg| {
            let error = sum(&pg, &vendors[0]).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("guarded"), "{error}");
            assert_eq!(sum(&pg, &vendors[1])?[0], 3);
            pg.shutdown()
        })
        .unwrap();
}
