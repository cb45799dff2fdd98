//! The registration of the devices.

use std::sync::{Arc, OnceLock};

use c10d_core::backend::{DeviceRegistration, Provider};
use c10d_core::{DispatchKey, Error, Result};

use crate::Wgpu;

/// The registration of the devices `wgpu`.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    devices: &[DeviceRegistration { name: "wgpu", key: DispatchKey::PrivateUse1, open: &|| Ok(runtime()?) }],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

static RUNTIME: OnceLock<Result<Arc<Wgpu>>> = OnceLock::new();

/// Makes [`PROVIDER`] use the program's own devices, so that its buffers can be used (see [`Tensor`](crate::Tensor)).
/// The program's own error handler gets errors of these devices.
///
/// # Errors
/// Fails if the process already uses devices of this crate. So call `adopt` before all other functions of the crate.
pub fn adopt(devices: Vec<(wgpu::Device, wgpu::Queue)>) -> Result<Arc<Wgpu>> {
    let mine = Arc::new(Wgpu::adopt(devices));
    match RUNTIME.set(Ok(mine.clone())) {
        Ok(()) => Ok(mine),
        Err(_) => Err(Error::invalid("this process uses wgpu devices already; adopt yours before anything else")),
    }
}

/// Returns the runtime of [`PROVIDER`]. A process has one such runtime. Unless the program gave its own devices by
/// [`adopt`], the devices are all GPUs of the machine, or a software implementation if there is no GPU. `WGPU_BACKEND`
/// selects Vulkan, Metal or DX12.
///
/// # Errors
/// `Unsupported`: there is no GPU and no software implementation. `Device`: no device could be opened.
pub fn runtime() -> Result<Arc<Wgpu>> {
    RUNTIME.get_or_init(|| Wgpu::open().map(Arc::new)).clone()
}
