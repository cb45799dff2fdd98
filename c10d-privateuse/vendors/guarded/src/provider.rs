//! The device's registration: all that a vendor's crate has to say.

use std::sync::{Arc, OnceLock};

use c10d_core::DispatchKey;
use c10d_core::registry::{DeviceRegistration, Provider};

use crate::Guarded;

/// The device `guarded`.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    devices: &[DeviceRegistration { name: "guarded", key: DispatchKey::PrivateUse1, open: &|| Ok(runtime()) }],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

/// The runtime behind [`PROVIDER`], one per process.
pub fn runtime() -> Arc<Guarded> {
    static RUNTIME: OnceLock<Arc<Guarded>> = OnceLock::new();
    RUNTIME.get_or_init(|| Arc::new(Guarded::new("guarded"))).clone()
}
