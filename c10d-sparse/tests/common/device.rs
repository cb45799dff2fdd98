//! Tensors on a simulated CUDA device, whose memory the host cannot access.
#![allow(dead_code, unreachable_pub)]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use c10d_core::backend::{DeviceRegistration, Provider};
use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Builder, Coo, DeviceCoo, DispatchKey, Element, Result};
use c10d_guarded::Guarded;

/// A time limit that only a copy that hangs reaches.
pub const CAP: Duration = Duration::from_secs(20);

/// The devices of this test program. Rank r uses device r.
pub static RUNTIME: LazyLock<Arc<Guarded>> = LazyLock::new(|| Arc::new(Guarded::cuda()));
static PROVIDER: Provider = Provider {
    source: "cuda",
    devices: &[DeviceRegistration { name: "cuda", key: DispatchKey::Cuda, open: &|| Ok(RUNTIME.clone()) }],
    ..Provider::EMPTY
};

pub fn builder() -> Builder {
    over(&PROVIDER)
}

/// Makes a builder of groups with the devices of a separate runtime, which the test can control.
pub fn builder_over(runtime: &Arc<Guarded>) -> Builder {
    let runtime = runtime.clone();
    let open = Box::leak(Box::new(move || Ok(runtime.clone() as Arc<dyn DeviceRuntime>)));
    let devices = Box::leak(Box::new([DeviceRegistration { name: "cuda", key: DispatchKey::Cuda, open }]));
    over(Box::leak(Box::new(Provider { source: "cuda of a test", devices, ..Provider::EMPTY })))
}

fn over(provider: &'static Provider) -> Builder {
    super::builder().providers(&[provider]).backend("cuda:gloo-like,cpu:gloo-like")
}

pub fn on_device<T: Element>(runtime: &Arc<Guarded>, t: &Coo<T>, index: u32) -> Result<DeviceCoo> {
    let runtime: Arc<dyn DeviceRuntime> = runtime.clone();
    let indices = DeviceBuffer::from_slice(&runtime, index as u16, t.indices(), CAP)?;
    let values = DeviceBuffer::from_slice(&runtime, index as u16, t.values(), CAP)?;
    let tensor = DeviceCoo::new(t.shape(), t.sparse_dim(), indices, values)?;
    Ok(if t.is_coalesced() { tensor.assume_coalesced() } else { tensor })
}

pub fn on_host<T: Element>(t: &DeviceCoo) -> Result<Coo<T>> {
    let (indices, values) = (t.indices().to_vec(CAP)?, t.values().to_vec(CAP)?);
    let host = Coo::new(t.shape(), t.sparse_dim(), indices, values)?;
    Ok(if t.is_coalesced() { host.assume_coalesced() } else { host })
}
