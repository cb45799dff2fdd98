//! gloo-like as the plugin `elsewhere`. In a group whose name says so it panics.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use c10d_core::registry::{Provider, Registration};
use c10d_core::{Backend, Capabilities, DispatchKey, Error, GroupInit, Job, Result};

static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    backends: &[Registration {
        name: "elsewhere",
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &create,
    }],
    ..Provider::EMPTY
};

c10d_privateuse::export_backend!("elsewhere", PROVIDER);

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    assert!(&*init.group != "panics in create", "create was told to");
    let inner = (c10d_gloo_like::PROVIDER.backends[0].create)(init)?;
    Ok(Arc::new(Elsewhere { inner, panics: &*init.group == "panics in submit" }))
}

struct Elsewhere {
    inner: Arc<dyn Backend>,
    panics: bool,
}

// SAFETY: passes on what gloo-like promises.
unsafe impl Backend for Elsewhere {
    fn name(&self) -> &'static str {
        "elsewhere"
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn submit(&self, job: Job) {
        assert!(!self.panics, "submit was told to");
        self.inner.submit(job);
    }

    fn abort(&self, cause: &Error) {
        self.inner.abort(cause);
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        self.inner.shutdown(deadline)
    }
}
