//! The registration of the device, which is all that a vendor's crate needs.

use std::sync::{Arc, OnceLock};

use c10d_core::DispatchKey;
use c10d_core::backend::{DeviceRegistration, Provider};

use crate::Guarded;

/// The devices `guarded`, for which the host reduces, and `guarded-reduces`, which reduce by themselves.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    devices: &[
        DeviceRegistration { name: "guarded", key: DispatchKey::PrivateUse1, open: &|| Ok(runtime()) },
        DeviceRegistration { name: "guarded-reduces", key: DispatchKey::PrivateUse1, open: &|| Ok(reducing()) },
    ],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

/// The runtime of `guarded-reduces`, one per process.
pub fn reducing() -> Arc<Guarded> {
    static RUNTIME: OnceLock<Arc<Guarded>> = OnceLock::new();
    RUNTIME.get_or_init(|| Arc::new(Guarded::new("guarded-reduces").with_reduction())).clone()
}

/// The runtime of `guarded`, one per process.
pub fn runtime() -> Arc<Guarded> {
    static RUNTIME: OnceLock<Arc<Guarded>> = OnceLock::new();
    RUNTIME.get_or_init(|| Arc::new(Guarded::new("guarded"))).clone()
}
