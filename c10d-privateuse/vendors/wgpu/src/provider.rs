//! The registration.

use std::sync::{Arc, OnceLock};

use c10d_core::registry::{DeviceRegistration, Provider};
use c10d_core::{DispatchKey, Result};

use crate::Wgpu;

/// The devices `wgpu`.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    devices: &[DeviceRegistration { name: "wgpu", key: DispatchKey::PrivateUse1, open: &|| Ok(runtime()?) }],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

/// The runtime behind [`PROVIDER`], one per process.
///
/// # Errors
/// There is no GPU, and no software that stands in for one; or it would not open.
pub fn runtime() -> Result<Arc<Wgpu>> {
    static RUNTIME: OnceLock<Result<Arc<Wgpu>>> = OnceLock::new();
    RUNTIME.get_or_init(|| Wgpu::open().map(Arc::new)).clone()
}
