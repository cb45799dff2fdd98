//! Shared code of the tests.
#![allow(dead_code, unused_macros)]

use std::sync::mpsc::channel;
use std::time::Duration;

/// A limit that is reached only if something hangs.
pub(crate) const CAP: Duration = Duration::from_secs(20);

/// Runs a body on a new thread, and fails if it does not return.
pub(crate) fn returns<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    std::thread::spawn(move || done.send(body()));
    wait.recv_timeout(3 * CAP).expect("this must return")
}

/// Makes a separate runtime for the test, and a builder of groups whose ops on the runtime's devices are staged.
macro_rules! staged {
    ($name:literal) => {{
        static RUNTIME: std::sync::LazyLock<std::sync::Arc<c10d_guarded::Guarded>> =
            std::sync::LazyLock::new(|| std::sync::Arc::new(c10d_guarded::Guarded::new($name)));
        static PROVIDER: c10d_core::backend::Provider = c10d_core::backend::Provider {
            source: $name,
            devices: &[c10d_core::backend::DeviceRegistration {
                name: $name,
                key: c10d_core::DispatchKey::PrivateUse1,
                open: &|| Ok(RUNTIME.clone()),
            }],
            ..c10d_core::backend::Provider::EMPTY
        };
        let builder = c10d_core::Builder::new()
            .providers(&[&PROVIDER, &c10d_gloo_like::PROVIDER])
            .backend(concat!($name, ":gloo-like"))
            .timeout(common::CAP);
        (RUNTIME.clone(), builder)
    }};
}
