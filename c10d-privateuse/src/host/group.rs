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

pub(super) struct Group {
    loaded: &'static LoadedPlugin,
    pub(super) functions: abi::Collectives,
    /// The address of the plugin's object; not set until it is made.
    pub(super) handle: OnceLock<usize>,
    pub(super) rank: u32,
    pub(super) size: u32,
    /// The flag `aborted` of `c10d_group_init`. It is set when all operations must end.
    pub(super) aborted: AtomicU32,
    failed: OnceLock<Error>,
    /// The time at which the host gives up all operations in flight; `None` until the group fails.
    limit: Mutex<Option<Instant>>,
    pub(super) queues: Arc<SubmitQueues>,
    in_use: Mutex<InUse>,
    less_in_use: Condvar,
    pub(super) store: Lease,
    /// The check whether the ranks make the same calls; `None` if there is only one rank.
    pub(super) calls: Option<Arc<CallCheck>>,
}

#[derive(Default)]
struct InUse {
    operations: usize,
    /// The number of calls of the plugin's functions that have not returned.
    calls: usize,
    /// Whether the object is destroyed, or about to be.
    destroyed: bool,
}

/// A call of a plugin's function that has not returned. Until it returns, the plugin's object is not destroyed.
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

/// Returns how long after an operation's deadline the host gives the operation up: half of the time that a backend has
/// for releasing a job.
pub(super) fn grace(timeout: Duration) -> Duration {
    let_go(timeout) / 2
}

impl Group {
    /// Makes a group without the plugin's object.
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
            loaded.table.collectives.as_ref().ok_or_else(|| plugin.error("create_group", "it has no collectives"))?;
        Ok(Arc::new_cyclic(|me: &Weak<Group>| Group {
            loaded,
            functions: *functions,
            handle: OnceLock::new(),
            rank: init.rank,
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

    /// Returns the plugin's device, if its collectives serve that device.
    pub(super) fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        let (_, offer) = self.loaded.table.collectives.as_ref()?;
        offer.accelerator().and_then(|_| self.loaded.runtime())
    }

    /// Whether this operation still waits in its queue because the plugin is busy with an earlier operation.
    pub(super) fn is_behind(&self, token: Token) -> bool {
        self.queues.is_behind(token)
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failed.get().cloned()
    }

    /// Returns the time at which the host gives up all operations in flight: far in the future unless the group failed.
    pub(super) fn limit(&self) -> Instant {
        self.limit.lock().unwrap_or_else(|| deadline_after(Duration::MAX))
    }

    /// Tells the plugin to end all operations in flight, and makes later operations fail. The clock ends operations
    /// that the plugin does not end. Only the first cause is stored. This function never waits for the plugin.
    pub(super) fn fail(self: &Arc<Self>, cause: &Error) {
        if self.failed.set(cause.clone()).is_err() {
            return;
        }
        self.calls.iter().for_each(|calls| calls.report(cause));
        self.aborted.store(1, Ordering::Release);
        let limit = Instant::now() + grace(Duration::ZERO);
        *self.limit.lock() = Some(limit);
        clock::at(limit);
        let (Some(abort), Some(_)) = (self.functions.abort, self.handle.get()) else { return };
        let (Some(me), text) = (self.open_call(), cause.to_string()) else { return };
        // If no thread can be started, the plugin's `abort` is not called, and the clock ends the operations in flight.
        let _ = spawn_detached(move || {
            // SAFETY: the function was validated, and the object is not destroyed while `me` counts this call.
            unsafe { abort(me.0.handle(), text.as_ptr().cast(), text.len() as u64) };
        });
    }

    /// Waits until no operation is in flight, then calls the plugin's `shutdown`, unless the group has failed. Returns
    /// an error at the deadline, if the ranks made different calls, or if the plugin returns an error.
    pub(super) fn shutdown(self: &Arc<Self>, deadline: Instant) -> Result {
        {
            let mut in_use = self.in_use.lock();
            while in_use.operations > 0 {
                if self.less_in_use.wait_until(&mut in_use, deadline).timed_out() {
                    return Err(self.plugin().error("shutdown", "operations were still in flight at the deadline"));
                }
            }
        }
        let patient = if self.failure().is_none() { deadline } else { Instant::now() };
        if let Some(disagreement) = self.calls.as_ref().and_then(|calls| calls.leave(patient)) {
            return Err(disagreement);
        }
        let (Some(shutdown), None) = (self.functions.shutdown, self.failure()) else { return Ok(()) };
        let Some(me) = self.open_call() else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        let told = call_until(deadline + grace(Duration::ZERO), move || {
            let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
            // SAFETY: the function was validated, and the object is not destroyed while `me` counts this call.
            Why::ask(|why| unsafe { shutdown(me.0.handle(), left, why) })
        })?;
        match told {
            TimedCall::Returned((status, why)) => answer::status(self.plugin(), "shutdown", status, &why),
            TimedCall::Hangs => Err(self.plugin().gave_up("shutdown")),
        }
    }

    /// Destroys the plugin's object, on another thread, after all operations have ended and all calls of the plugin's
    /// functions have returned. If such a call never returns, the object is never destroyed.
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
                // SAFETY: the function was validated. `create_group` or `split` made the object, nothing uses it any
                // more, and it is destroyed once.
                unsafe { destroy(*handle as *mut _) };
            }
        });
    }

    /// Makes the group fail because the time of an operation is over. The plugin is trusted: the operation itself ends
    /// only when the plugin releases the caller's memory.
    pub(super) fn is_late(self: &Arc<Self>) {
        self.fail(
            &self
                .plugin()
                .error("submit", "it did not end an operation in time; since it is trusted, the call still waits"),
        );
    }

    /// Asks the plugin for an error that occurred while no operation was waiting. If there is one, the group fails.
    pub(super) fn listen(self: &Arc<Self>) {
        let (Some(ask), Some(_), None) = (self.functions.async_error, self.handle.get(), self.failure()) else {
            return;
        };
        let Some(_open) = self.open_call() else { return };
        let mut guilty = vec![0u32; self.size as usize];
        let mut count = 0;
        // SAFETY: the function was validated, the object was made and is not destroyed while `_open` counts this call,
        // and there is room for as many ranks as the group has.
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

    /// Counts a call of a plugin's function on this group. Returns `None` if the plugin's object is destroyed.
    pub(super) fn open_call(self: &Arc<Self>) -> Option<OpenCall> {
        let mut in_use = self.in_use.lock();
        if in_use.destroyed {
            return None;
        }
        in_use.calls += 1;
        Some(OpenCall(self.clone()))
    }

    /// Counts a call that belongs to an operation in flight, or the call that makes the plugin's object. In both cases
    /// the object cannot be destroyed yet.
    pub(super) fn open_operation_call(self: &Arc<Self>) -> OpenCall {
        self.in_use.lock().calls += 1;
        OpenCall(self.clone())
    }

    pub(super) fn operation_begins(&self) {
        self.in_use.lock().operations += 1;
    }

    /// Marks the error as a failure of the group. If the error is about a rank whose program ended without leaving the
    /// group, the returned error says so.
    pub(super) fn in_its_words(&self, error: Error) -> Error {
        match &self.calls {
            Some(calls) => answer::failed(calls.in_its_words(error)),
            None => answer::failed(error),
        }
    }

    /// Tells the check of calls that this collective has ended.
    pub(super) fn call_ended(&self, request: &Request) {
        self.calls.iter().filter(|_| !request.op.is_p2p()).for_each(|calls| calls.end(request));
    }

    pub(super) fn operation_ended(&self) {
        self.in_use.lock().operations -= 1;
        self.less_in_use.notify_all();
    }
}
