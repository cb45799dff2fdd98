//! One rank's part of a group. The plugin has its own copy of core, and makes a group in this copy.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use c10d_core::OpKind;
use c10d_core::backend::{Backend, Params};
use c10d_core::device::DeviceRuntime;
use c10d_core::process::spawn;
use c10d_core::{Builder, Error, ErrorKind, Outcome, ProcessGroup, RawSpans, Result, Work};

use super::catch::caught;
use super::exported::{Exported, runtime};
use super::reporter::{News, report};
use super::store::{HostStore, HostTable};
use super::watched::{MAKING, Making, watched};
use super::work;
use crate::abi::{self, DoneFn, Request};

/// A call on spans, in core's form.
type RawCall = (OpKind, Params, Option<Duration>, RawSpans);

pub(super) struct ExportedGroup {
    group: Option<ProcessGroup>,
    /// The exported backend, which is needed for splits.
    inner: Arc<dyn Backend>,
    host_table: HostTable,
    runtime: Option<Arc<dyn DeviceRuntime>>,
    news: Sender<News>,
}

impl ExportedGroup {
    /// Makes a new group, or a sub-group of an existing group. For a sub-group, `whole` has the backend of the existing
    /// group, and the ranks that the members of the sub-group have in the existing group.
    pub(super) fn create<E: Exported>(
        host_table: HostTable,
        init: &abi::GroupInit,
        name: &str,
        whole: Option<(Arc<dyn Backend>, Vec<u32>)>,
    ) -> Result<ExportedGroup> {
        let runtime =
            if E::provider().devices.iter().any(|d| d.name == E::NAME) { Some(runtime::<E>()?.clone()) } else { None };
        let provider = watched::<E>(host_table)?;
        MAKING.set(Making { whole, made: None });
        let group = Builder::new()
            .name(name)
            .rank(init.rank)
            .size(init.size)
            .store(Arc::new(HostStore::new(host_table, init.store)))
            .timeout(Duration::from_nanos(init.timeout_ns))
            .providers(&[provider])
            .backend(provider.backends[0].name)
            .build();
        let made = MAKING.take().made;
        let (group, inner) = (group?, made.ok_or_else(|| Error::new(ErrorKind::Internal, "no backend was made"))?);
        let (news, heard) = channel();
        let bell = news.clone();
        spawn(&format!("{} done", E::NAME), move || drop(caught(|| report(host_table, &heard, &bell))))?;
        Ok(ExportedGroup { group: Some(group), inner, host_table, runtime, news })
    }

    pub(super) fn split<E: Exported>(&self, ranks: &[u32], init: &abi::GroupInit, name: &str) -> Result<ExportedGroup> {
        ExportedGroup::create::<E>(self.host_table, init, name, Some((self.inner.clone(), ranks.to_vec())))
    }

    pub(super) fn no_split(&self) {
        self.inner.no_split();
    }

    /// Returns the error with which the group has failed. A mismatch is not returned: each rank's own call fails with
    /// the mismatch.
    pub(super) fn failure(&self) -> Option<Error> {
        let error = self.group.as_ref()?.failure()?;
        (!matches!(error.kind(), ErrorKind::Mismatch { .. })).then(|| error.clone())
    }

    fn group(&self) -> Result<&ProcessGroup> {
        self.group.as_ref().ok_or_else(|| Error::new(ErrorKind::Shutdown, "the group was shut down"))
    }

    /// # Safety
    /// The request is valid by the ABI, and stays valid with its memory until the operation is done.
    pub(super) unsafe fn submit(&self, request: &Request, done: DoneFn, token: u64) -> Result {
        let group = self.group()?;
        // SAFETY: the caller guarantees it.
        let (op, params, timeout, spans) = unsafe { self.call(group, request)? };
        // SAFETY: the memory stays valid until `done` is called. The reporter calls `done` after the work has ended.
        let work = unsafe { group.submit_raw(op, params, timeout, spans) };
        self.report(token, done, work);
        Ok(())
    }

    /// # Safety
    /// Every request is valid as for `submit`.
    pub(super) unsafe fn submit_batch<'a>(
        &self,
        requests: impl Iterator<Item = (&'a Request, u64)>,
        done: DoneFn,
    ) -> Result {
        let group = self.group()?;
        let (mut calls, mut tokens) = (Vec::new(), Vec::new());
        for (request, token) in requests {
            // SAFETY: the caller guarantees it.
            calls.push(unsafe { self.call(group, request)? });
            tokens.push(token);
        }
        // SAFETY: the same as in `submit`.
        let works = unsafe { group.submit_raw_batch(calls) };
        works.into_iter().zip(tokens).for_each(|(work, token)| self.report(token, done, work));
        Ok(())
    }

    fn report(&self, token: u64, done: DoneFn, work: Work<Outcome>) {
        // The reporter thread ends only after the group was dropped.
        let _ = self.news.send(News::Started { token, done, work: Box::new(work) });
    }

    /// # Safety
    /// The request is valid by the ABI.
    unsafe fn call(&self, group: &ProcessGroup, request: &Request) -> Result<RawCall> {
        // SAFETY: the caller guarantees it.
        let work::RawCall { op, mut params, spans } = unsafe { work::of(request, self.runtime.as_ref())? };
        // SAFETY: the caller guarantees it.
        let [input, output] = unsafe { work::splits(request, group.size()) };
        params.set_splits(input, output);
        Ok((op, params, Some(Duration::from_nanos(request.timeout_ns)), spans))
    }

    pub(super) fn abort(&self, cause: &str) {
        if let Some(group) = &self.group {
            group.abort(cause);
        }
    }

    pub(super) fn shutdown(&self, timeout: Duration) -> Result {
        self.group.clone().map_or(Ok(()), |group| group.shutdown_within(timeout))
    }
}

impl Drop for ExportedGroup {
    fn drop(&mut self) {
        self.group = None;
        let _ = self.news.send(News::Over);
    }
}
