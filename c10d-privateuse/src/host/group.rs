//! One rank's part of a group in a plugin.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use c10d_core::backend::{GroupInit, Request, let_go};
use c10d_core::calls::CallCheck;
use c10d_core::device::DeviceRuntime;
use c10d_core::store::deadline_after;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Result};

use super::loaded::LoadedPlugin;
use super::plugin::Hosted;
use super::queues::SubmitQueues;
use super::stores::{self, Lease};
use super::timed_call::{TimedCall, call_until, spawn_detached};
use super::token::Token;
use super::{answer, clock};
use crate::abi::{self, Why};

/// The data for the plugin's calls on this group.
pub(super) struct Group {
    loaded: &'static LoadedPlugin,
    pub(super) functions: abi::Collectives,
    /// The plugin's object; 0 until it is made.
    pub(super) handle: OnceLock<usize>,
    pub(super) size: u32,
    /// The flag that the plugin reads. It is set when all operations must end.
    pub(super) aborted: AtomicU32,
    failed: OnceLock<Error>,
    /// The time at which everything in flight is given up, after it was told to end.
    limit: Mutex<Option<Instant>>,
    pub(super) queues: Arc<SubmitQueues>,
    in_use: Mutex<InUse>,
    less_in_use: Condvar,
    pub(super) store: Lease,
    /// The check whether the ranks make the same calls; `None` if there is one rank only.
    pub(super) calls: Option<Arc<CallCheck>>,
}

/// The uses of the plugin's object.
#[derive(Default)]
struct InUse {
    operations: usize,
    /// Calls that have not returned.
    calls: usize,
    /// Whether the object is destroyed, or about to be.
    destroyed: bool,
}

/// A call of the plugin that has not returned. The object stays meanwhile.
pub(super) struct OpenCall(pub(super) Arc<Group>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.in_use.lock().calls -= 1;
        self.0.less_in_use.notify_all();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.calls.iter().for_each(|calls| calls.stop());
    }
}

/// Half of the time that a backend has for releasing a job; the host needs the rest.
pub(super) fn grace(timeout: Duration) -> Duration {
    let_go(timeout) / 2
}

impl Group {
    /// Makes a group without the plugin's object. Its operations go through these queues.
    pub(super) fn new(
        loaded: &'static LoadedPlugin,
        init: &GroupInit,
        queues: Arc<SubmitQueues>,
    ) -> Result<Arc<Group>> {
        let plugin = loaded.hosted;
        if let Some(error) = plugin.broken() {
            return Err(error.clone());
        }
        let (functions, _) =
            loaded.table.collectives.as_ref().ok_or_else(|| plugin.error("create_group", "it has none"))?;
        Ok(Arc::new_cyclic(|me: &Weak<Group>| Group {
            loaded,
            functions: *functions,
            handle: OnceLock::new(),
            size: init.size,
            aborted: AtomicU32::new(0),
            failed: OnceLock::new(),
            limit: Mutex::new(None),
            queues,
            in_use: Mutex::default(),
            less_in_use: Condvar::new(),
            store: stores::lease(init.store.clone()),
            calls: CallCheck::new(init, {
                let me = me.clone();
                move |error| me.upgrade().iter().for_each(|group| group.fail(error))
            }),
        }))
    }

    pub(super) fn plugin(&self) -> &'static Hosted {
        self.loaded.hosted
    }

    pub(super) fn loaded(&self) -> &'static LoadedPlugin {
        self.loaded
    }

    pub(super) fn functions(&self) -> &abi::Collectives {
        &self.functions
    }

    pub(super) fn runtime(&self) -> Option<Arc<dyn DeviceRuntime>> {
        self.loaded.runtime()
    }

    pub(super) fn handle(&self) -> *mut std::ffi::c_void {
        self.handle.get().copied().unwrap_or_default() as *mut _
    }

    /// The plugin's own device, if that is what the collectives serve.
    pub(super) fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        let (_, offer) = self.loaded.table.collectives.as_ref()?;
        offer.accelerator().and_then(|_| self.loaded.runtime())
    }

    /// Whether the plugin is still busy with earlier operations than one that it was not given.
    pub(super) fn is_behind(&self, token: Token) -> bool {
        self.queues.is_behind(token)
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failed.get().cloned()
    }

    /// The latest end of everything in flight.
    pub(super) fn limit(&self) -> Instant {
        self.limit.lock().unwrap_or_else(|| deadline_after(Duration::MAX))
    }

    /// Ends all operations in flight and later ones. The first cause counts. It never waits for the plugin.
    pub(super) fn fail(self: &Arc<Self>, cause: &Error) {
        if self.failed.set(cause.clone()).is_err() {
            return;
        }
        self.calls.iter().for_each(|calls| calls.tell(cause));
        self.aborted.store(1, Ordering::Release);
        let limit = Instant::now() + grace(Duration::ZERO);
        *self.limit.lock() = Some(limit);
        clock::at(limit);
        let (Some(abort), Some(_)) = (self.functions.abort, self.handle.get()) else { return };
        let (Some(me), text) = (self.open_call(), cause.to_string()) else { return };
        // If there is no thread for it, the flag is set anyway, and the clock ends the operations in flight.
        let _ = spawn_detached(move || {
            // SAFETY: validated; the group is not destroyed before this call was counted as returned.
            unsafe { abort(me.0.handle(), text.as_ptr().cast(), text.len() as u64) };
        });
    }

    /// Waits until nothing is in flight, then lets the plugin say goodbye.
    pub(super) fn shutdown(self: &Arc<Self>, deadline: Instant) -> Result {
        {
            let mut in_use = self.in_use.lock();
            while in_use.operations > 0 {
                if self.less_in_use.wait_until(&mut in_use, deadline).timed_out() {
                    return Err(self.plugin().error("shutdown", "operations were in flight when the time was over"));
                }
            }
        }
        let patient = if self.failure().is_none() { deadline } else { Instant::now() };
        if let Some(parted) = self.calls.as_ref().and_then(|calls| calls.leave(patient)) {
            return Err(parted);
        }
        let (Some(shutdown), None) = (self.functions.shutdown, self.failure()) else { return Ok(()) };
        let Some(me) = self.open_call() else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        let told = call_until(deadline + grace(Duration::ZERO), move || {
            let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
            // SAFETY: as in `fail`.
            Why::ask(|why| unsafe { shutdown(me.0.handle(), left, why) })
        })?;
        match told {
            TimedCall::Returned((status, why)) => answer::status(self.plugin(), "shutdown", status, &why),
            TimedCall::Hangs => Err(self.plugin().gave_up("shutdown")),
        }
    }

    /// Called when the backend is dropped: started operations still run, then the plugin's object is destroyed. If a
    /// call of the plugin never returns, the object stays.
    pub(super) fn retire(self: &Arc<Self>) {
        self.queues.close();
        let me = self.clone();
        let _ = spawn_detached(move || {
            {
                let mut in_use = me.in_use.lock();
                while (in_use.operations, in_use.calls) != (0, 0) {
                    me.less_in_use.wait(&mut in_use);
                }
                in_use.destroyed = true;
            }
            if let (Some(destroy), Some(handle)) = (me.functions.destroy_group, me.handle.get())
                && *handle != 0
            {
                // SAFETY: validated; made by create_group, nothing is in flight, destroyed once.
                unsafe { destroy(*handle as *mut _) };
            }
        });
    }

    /// Handles an operation of a trusted plugin after its time: all operations must end, and the caller's memory waits
    /// for the plugin.
    pub(super) fn is_late(self: &Arc<Self>) {
        self.fail(
            &self.plugin().error("submit", "an operation is past its time, and has the caller's memory on trust"),
        );
    }

    /// Asks for errors that occurred while nothing was waiting.
    pub(super) fn listen(self: &Arc<Self>) {
        let (Some(ask), Some(_), None) = (self.functions.async_error, self.handle.get(), self.failure()) else {
            return;
        };
        let Some(_open) = self.open_call() else { return };
        let mut guilty = vec![0u32; self.size as usize];
        let mut count = 0;
        // SAFETY: validated; a made object that is not destroyed before this call was counted as returned; room for as many
        // ranks as the group has.
        let (status, why) = Why::ask(|why| unsafe { ask(self.handle(), guilty.as_mut_ptr(), &mut count, why) });
        if let Err(e) = answer::status(self.plugin(), "async_error", status, &why) {
            let guilty = guilty.into_iter().take(count as usize).filter(|rank| *rank < self.size);
            let mut e = answer::failed(e.guilty(guilty));
            if let ErrorKind::PeerDead { how } = &mut e.report_mut().kind {
                *how = why;
            }
            e = self.in_its_words(e);
            self.fail(&e);
            tracing::error!(target: "c10d::plugin", plugin = self.plugin().name, "{e}");
        }
    }

    /// Counts a call of the plugin on this group; `None`: the object does not exist any more.
    pub(super) fn open_call(self: &Arc<Self>) -> Option<OpenCall> {
        let mut in_use = self.in_use.lock();
        if in_use.destroyed {
            return None;
        }
        in_use.calls += 1;
        Some(OpenCall(self.clone()))
    }

    /// Counts a call for an operation in flight, or one that makes the object. The object exists.
    pub(super) fn open_operation_call(self: &Arc<Self>) -> OpenCall {
        self.in_use.lock().calls += 1;
        OpenCall(self.clone())
    }

    /// Counts a new operation.
    pub(super) fn operation_begins(&self) {
        self.in_use.lock().operations += 1;
    }

    /// The error, with the reports of ranks whose program ended while they were in the group.
    pub(super) fn in_its_words(&self, error: Error) -> Error {
        match &self.calls {
            Some(calls) => answer::failed(calls.in_its_words(error)),
            None => answer::failed(error),
        }
    }

    /// Records the end of a call, whatever its result.
    pub(super) fn call_ended(&self, request: &Request) {
        self.calls.iter().filter(|_| !request.op.is_p2p()).for_each(|calls| calls.end(request));
    }

    pub(super) fn operation_ended(&self) {
        self.in_use.lock().operations -= 1;
        self.less_in_use.notify_all();
    }
}
