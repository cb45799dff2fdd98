//! A wrapper of the exported backend that catches its panics.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::Arc;

use c10d_core::backend::{Backend, Capabilities, GroupInit, Job, Provider, Registration};
use c10d_core::device::DeviceRuntime;
use c10d_core::{DispatchKey, Error, Result};

use super::catch::caught;
use super::exported::Exported;
use super::store::HostTable;

/// A thread-local variable that passes `whole` to the function `create` in `watched`, and `made` back.
/// `ExportedGroup::create` sets `whole` and takes `made`. Core calls `create` on the same thread.
#[derive(Default)]
pub(super) struct Making {
    /// For a sub-group: the backend of the existing group, and the ranks that the members of the sub-group have in the
    /// existing group.
    pub(super) whole: Option<(Arc<dyn Backend>, Vec<u32>)>,
    pub(super) made: Option<Arc<dyn Backend>>,
}

thread_local! {
    pub(super) static MAKING: RefCell<Making> = RefCell::default();
}

/// Returns a provider with the wrapped backend under another name. The vendor's crate may have registered the original
/// name by `submit!` in the plugin's copy of core.
pub(super) fn watched<E: Exported>(host_table: HostTable) -> Result<&'static Provider> {
    let provider = E::provider();
    let original = provider.backends.iter().find(|r| r.name == E::NAME);
    let original = original.ok_or_else(|| Error::unsupported(format!("no backend {:?} is registered", E::NAME)))?;
    let create = move |init: &GroupInit| -> Result<Arc<dyn Backend>> {
        let part = MAKING.take().whole.and_then(|(whole, ranks)| whole.split(&ranks, init));
        let inner: Arc<dyn Backend> = match part {
            Some(inner) => inner?,
            None => Arc::new(Watched { inner: caught(|| (original.create)(init)).flatten()?, host_table }),
        };
        MAKING.set(Making { whole: None, made: Some(inner.clone()) });
        Ok(inner)
    };
    // There is one provider per process, because it is leaked.
    static ONE: std::sync::OnceLock<&'static Provider> = std::sync::OnceLock::new();
    Ok(ONE.get_or_init(|| {
        let registration = Registration {
            name: String::leak(format!("{}.plugin", E::NAME)),
            keys: original.keys,
            priority: 0,
            probe: original.probe,
            create: Box::leak(Box::new(create)),
        };
        let submitted = Box::leak(Box::new([registration]));
        Box::leak(Box::new(Provider { source: provider.source, backends: submitted, ..Provider::EMPTY }))
    }))
}

/// A backend whose panics are caught. If `submit` panics while it has the job, the job ends with `Abandoned`.
struct Watched {
    inner: Arc<dyn Backend>,
    host_table: HostTable,
}

impl Watched {
    fn watch<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        caught(f).inspect_err(|e| self.host_table.error(&e.to_string()))
    }
}

// SAFETY: `Watched` passes every call to the inner backend, which gives the guarantees.
unsafe impl Backend for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn capabilities_on(&self, key: DispatchKey) -> &Capabilities {
        self.inner.capabilities_on(key)
    }

    fn submit(&self, job: Job) {
        if let Err(e) = self.watch(|| self.inner.submit(job)) {
            let _ = self.watch(|| self.inner.abort(&e));
        }
    }

    fn submit_batch(&self, jobs: Vec<Job>) {
        if let Err(e) = self.watch(|| self.inner.submit_batch(jobs)) {
            let _ = self.watch(|| self.inner.abort(&e));
        }
    }

    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let part = self.watch(|| self.inner.split(ranks, init));
        let part = part.unwrap_or_else(|e| Some(Err(e)))?;
        Some(part.map(|inner| Arc::new(Watched { inner, host_table: self.host_table }) as Arc<dyn Backend>))
    }

    fn no_split(&self) {
        let _ = self.watch(|| self.inner.no_split());
    }

    fn failure(&self) -> Option<Error> {
        self.watch(|| self.inner.failure()).unwrap_or_else(Some)
    }

    fn abort(&self, cause: &Error) {
        let _ = self.watch(|| self.inner.abort(cause));
    }

    fn shutdown(&self, deadline: std::time::Instant) -> Result {
        self.watch(|| self.inner.shutdown(deadline)).flatten()
    }

    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        self.inner.device()
    }
}
