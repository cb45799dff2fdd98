//! The registration of the devices.

use std::sync::{Arc, OnceLock};

use c10d_core::DispatchKey;
use c10d_core::backend::{DeviceRegistration, Provider};

use crate::Guarded;

/// The registration of two kinds of devices: `guarded`, and `guarded-reduces`, which can reduce.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    devices: &[
        DeviceRegistration { name: "guarded", key: DispatchKey::PrivateUse1, open: &|| Ok(runtime()) },
        DeviceRegistration { name: "guarded-reduces", key: DispatchKey::PrivateUse1, open: &|| Ok(reducing()) },
    ],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

/// Returns the runtime of `guarded-reduces`. A process has one such runtime.
pub fn reducing() -> Arc<Guarded> {
    static RUNTIME: OnceLock<Arc<Guarded>> = OnceLock::new();
    RUNTIME.get_or_init(|| Arc::new(Guarded::new("guarded-reduces").with_reduction())).clone()
}

/// Returns the runtime of `guarded`. A process has one such runtime.
pub fn runtime() -> Arc<Guarded> {
    static RUNTIME: OnceLock<Arc<Guarded>> = OnceLock::new();
    RUNTIME.get_or_init(|| Arc::new(Guarded::new("guarded"))).clone()
}
