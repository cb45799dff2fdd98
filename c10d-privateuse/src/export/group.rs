//! One rank's part of a group, as a group of the plugin's own copy of core.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use c10d_core::device::DeviceRuntime;
use c10d_core::registry::{Provider, Registration};
use c10d_core::{Backend, Capabilities, Error, ErrorKind, GroupBuilder, GroupInit, Job, ProcessGroup, Result};

use super::catch::caught;
use super::entry::Exported;
use super::reporter::{News, report};
use super::store::{Given, HostStore};
use super::work;
use crate::abi::{self, DoneFn, Request};

pub(super) struct ExportedGroup {
    group: Option<ProcessGroup>,
    runtime: Option<Arc<dyn DeviceRuntime>>,
    news: Sender<News>,
}

impl ExportedGroup {
    pub(super) fn create<E: Exported>(
        given: Given,
        init: &abi::GroupInit,
        name: &str,
        runtime: Option<Arc<dyn DeviceRuntime>>,
    ) -> Result<ExportedGroup> {
        let provider = watched::<E>(given)?;
        let group = GroupBuilder::new()
            .name(name)
            .rank(init.rank)
            .size(init.size)
            .store(Arc::new(HostStore::new(given, init.store)))
            .timeout(Duration::from_nanos(init.timeout_ns))
            .providers(&[provider])
            .backend(provider.backends[0].name)
            .build()?;
        let (news, heard) = channel();
        let bell = news.clone();
        let started = std::thread::Builder::new()
            .name(format!("{} done", E::NAME))
            .spawn(move || drop(caught(|| report(given, &heard, &bell))));
        started
            .map_err(|e| Error::new(ErrorKind::Resource, "cannot start a thread that says what is done").source(e))?;
        Ok(ExportedGroup { group: Some(group), runtime, news })
    }

    /// # Safety
    /// The request is as the ABI has it, and stays with its memory until the operation is done.
    pub(super) unsafe fn submit(&self, request: &Request, done: DoneFn, token: u64) -> Result {
        let group = self.group.as_ref().ok_or_else(|| Error::new(ErrorKind::Shutdown, "the group was shut down"))?;
        // SAFETY: as promised.
        let mut call = unsafe { work::of(request, self.runtime.as_ref())? };
        // SAFETY: as promised.
        let [input, output] = unsafe { work::splits(request, group.size()) };
        call.params.set_splits(input, output);
        let timeout = Duration::from_nanos(request.timeout_ns);
        // SAFETY: the memory stays until `done` was called, which the reporter does when the work is over.
        let work = unsafe { group.submit_raw(call.op, call.params, Some(timeout), call.spans) };
        // The reporter goes with the group.
        let _ = self.news.send(News::Started { token, done, work: Box::new(work) });
        Ok(())
    }

    pub(super) fn abort(&self, cause: &str) {
        if let Some(group) = &self.group {
            group.abort(cause);
        }
    }

    pub(super) fn shutdown(&self, _: Duration) -> Result {
        self.group.clone().map_or(Ok(()), ProcessGroup::shutdown)
    }
}

impl Drop for ExportedGroup {
    fn drop(&mut self) {
        self.group = None;
        let _ = self.news.send(News::Over);
    }
}

/// The exported backend under a name of its own, watched for panics. Beside the original, which the plugin's copy of
/// core may know by the vendor crate's own `submit!`.
fn watched<E: Exported>(given: Given) -> Result<&'static Provider> {
    let provider = E::provider();
    let original = provider.backends.iter().find(|r| r.name == E::NAME);
    let original = original.ok_or_else(|| Error::unsupported(format!("no backend {:?} is registered", E::NAME)))?;
    let create = move |init: &GroupInit| -> Result<Arc<dyn Backend>> {
        let inner = caught(|| (original.create)(init)).flatten()?;
        Ok(Arc::new(Watched { inner, given }))
    };
    // One per group and process would be a leak that grows; the registry wants what lasts.
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

/// A backend whose panics stay inside: a job that it was given ends as `Abandoned`, or later by another thread of it.
struct Watched {
    inner: Arc<dyn Backend>,
    given: Given,
}

impl Watched {
    fn watch<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        caught(f).inspect_err(|e| self.given.error(&e.to_string()))
    }
}

// SAFETY: passes on what the inner backend promises.
unsafe impl Backend for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn submit(&self, job: Job) {
        if let Err(e) = self.watch(|| self.inner.submit(job)) {
            let _ = self.watch(|| self.inner.abort(&e));
        }
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
