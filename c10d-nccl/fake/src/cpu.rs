//! Over which CPU backend the collectives go.

use std::sync::Arc;

use c10d_core::backend::{Backend, GroupInit, Provider, Registration};
use c10d_core::{Builder, DispatchKey, Result};
use parking_lot::Mutex;

/// What gives communicators their CPU backend.
#[derive(Clone, Copy)]
pub struct Cpu(&'static Provider);

impl Cpu {
    /// One of each communicator's own.
    pub fn own() -> Cpu {
        Cpu(&c10d_gloo_like::PROVIDER)
    }

    /// This one, of rank `rank` of `size`, which nobody else uses. The first communicator of just these ranks goes over it,
    /// those divided off from that over its parts ([`Backend::split`], [`Backend::shrink`]). What is left goes over others of
    /// its name, which must be registered: parts of one that has none, communicators of two ranks for messages.
    pub fn given(backend: Arc<dyn Backend>, rank: u32, size: u32) -> Cpu {
        let name = backend.name();
        let given = Mutex::new(Some(backend));
        let create = move |init: &GroupInit| {
            let mine = if (init.rank, init.size) == (rank, size) { given.lock().take() } else { None };
            mine.map_or_else(|| init.backend(name), Ok)
        };
        // Providers stay for good: one of each group of a test.
        let create: &'static (dyn Fn(&GroupInit) -> Result<Arc<dyn Backend>> + Sync) = Box::leak(Box::new(create));
        let keys = &[DispatchKey::Cpu];
        let backends = vec![Registration { name: "given", keys, priority: 0, probe: &|| Ok(()), create }];
        Cpu(Box::leak(Box::new(Provider { source: "given", backends: backends.leak(), ..Provider::EMPTY })))
    }

    /// A group over it.
    pub(crate) fn group(self) -> Builder {
        let name = self.0.backends.first().map_or("", |r| r.name);
        Builder::new().providers(&[self.0]).backend(&format!("cpu:{name}"))
    }
}
