//! One rank's part of a group in a plugin.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use c10d_core::device::DeviceRuntime;
use c10d_core::store::deadline_after;
use c10d_core::{DispatchKey, Error, GroupInit, Job, Result, let_go};
use parking_lot::{Condvar, Mutex};

use super::aside::{Aside, aside, detached};
use super::flight::Flight;
use super::lanes::{Lane, Lanes};
use super::stores::{self, Lease};
use super::{Hosted, LoadedPlugin, call, done, lend, slots, verdict, watch};
use crate::abi::{self, Why};

/// What the plugin's calls on this group need.
pub(super) struct Group {
    loaded: &'static LoadedPlugin,
    functions: abi::Collectives,
    /// The plugin's object; 0 until it is made.
    handle: OnceLock<usize>,
    pub(super) size: u32,
    /// What the plugin looks at; set when all must end.
    aborted: AtomicU32,
    failed: OnceLock<Error>,
    /// When everything in flight is given up, once it must end.
    limit: Mutex<Option<Instant>>,
    lanes: Arc<Lanes>,
    /// Operations in flight, and calls that have not returned.
    busy: Mutex<(usize, usize)>,
    quieter: Condvar,
    store: Lease,
}

/// Half of the time that a backend has for letting go; the rest is for us.
fn grace(timeout: Duration) -> Duration {
    let_go(timeout) / 2
}

impl Group {
    /// Meets the other ranks, by the plugin.
    pub(super) fn create(loaded: &'static LoadedPlugin, init: &GroupInit) -> Result<Arc<Group>> {
        let plugin = loaded.hosted;
        if let Some(error) = plugin.broken() {
            return Err(error.clone());
        }
        let (functions, _) =
            loaded.table.collectives.as_ref().ok_or_else(|| plugin.error("create_group", "it has none"))?;
        watch::start()?;
        let group = Arc::new(Group {
            loaded,
            functions: *functions,
            handle: OnceLock::new(),
            size: init.size,
            aborted: AtomicU32::new(0),
            failed: OnceLock::new(),
            limit: Mutex::new(None),
            lanes: Lanes::new(board),
            busy: Mutex::new((0, 0)),
            quieter: Condvar::new(),
            store: stores::lease(init.store.clone()),
        });
        plugin.joined_by(&group);
        group.make(init)?;
        Ok(group)
    }

    fn make(self: &Arc<Self>, init: &GroupInit) -> Result {
        let plugin = self.plugin();
        let Some(create) = self.functions.create_group else { return Err(plugin.error("create_group", "it has none")) };
        let (me, name, session) = (self.clone(), init.group.clone(), init.session);
        let (rank, timeout) = (init.rank, init.deadline.saturating_duration_since(Instant::now()));
        self.called();
        let made = aside(init.deadline + grace(init.timeout), move || {
            let init = abi::GroupInit {
                struct_size: abi::size::<abi::GroupInit>(),
                rank,
                size: me.size,
                reserved: 0,
                name: name.as_ptr().cast(),
                name_len: name.len() as u64,
                session,
                store: me.store.0,
                timeout_ns: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
                aborted: me.aborted.as_ptr(),
            };
            let mut handle = std::ptr::null_mut();
            // SAFETY: validated; everything that `init` points to stays: the group as long as this thread holds it, and
            // for ever if the call never returns.
            let (status, why) = Why::ask(|why| unsafe { create(me.plugin().table(), &init, &mut handle, why) });
            let _ = me.handle.set(handle as usize);
            me.returned();
            (status, why)
        })?;
        match made {
            Aside::Returned((status, why)) => verdict::status(plugin, "create_group", status, &why),
            Aside::Hangs => {
                self.aborted.store(1, Ordering::Release);
                plugin.given_up.fetch_add(1, Ordering::Relaxed);
                Err(plugin.error("create_group", "it did not return in time"))
            }
        }
    }

    pub(super) fn plugin(&self) -> &'static Hosted {
        self.loaded.hosted
    }

    fn handle(&self) -> *mut std::ffi::c_void {
        self.handle.get().copied().unwrap_or_default() as *mut _
    }

    /// The plugin's own device, if that is what the collectives serve.
    pub(super) fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        let (_, offer) = self.loaded.table.collectives.as_ref()?;
        if offer.keys.contains(&DispatchKey::PrivateUse1) { self.loaded.runtime() } else { None }
    }

    /// Takes an operation.
    pub(super) fn submit(self: &Arc<Self>, job: Job) {
        let request = job.request();
        let limit = request.deadline() + grace(request.timeout);
        let lane = Lane::of(request);
        self.busy.lock().0 += 1;
        let flight =
            Flight { job, lent: lend::Lent::None, call: None, group: self.clone(), limit, returned: Arc::default() };
        if let Some(error) = self.failure() {
            return flight.refuse(error);
        }
        let token = slots::put(flight);
        watch::at(limit);
        if let Err(e) = self.lanes.push(lane, token)
            && let Some(flight) = slots::board(token)
        {
            slots::unboard(token);
            flight.refuse(e);
        }
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failed.get().cloned()
    }

    /// When everything in flight is over at latest.
    pub(super) fn limit(&self) -> Instant {
        self.limit.lock().unwrap_or_else(|| deadline_after(Duration::MAX))
    }

    /// Ends everything in flight and to come. The first cause wins. Never waits for the plugin.
    pub(super) fn fail(self: &Arc<Self>, cause: &Error) {
        if self.failed.set(cause.clone()).is_err() {
            return;
        }
        self.aborted.store(1, Ordering::Release);
        let limit = Instant::now() + grace(Duration::ZERO);
        *self.limit.lock() = Some(limit);
        watch::at(limit);
        let (Some(abort), Some(_)) = (self.functions.abort, self.handle.get()) else { return };
        let (me, text) = (self.clone(), cause.to_string());
        self.called();
        let spawned = detached(move || {
            // SAFETY: validated; the group is not destroyed before this call was counted as returned.
            unsafe { abort(me.handle(), text.as_ptr().cast(), text.len() as u64) };
            me.returned();
        });
        if spawned.is_err() {
            // The flag is up, and the clock ends what is in flight.
            self.returned();
        }
    }

    /// Waits until nothing is in flight, then has the plugin say goodbye.
    pub(super) fn shutdown(self: &Arc<Self>, deadline: Instant) -> Result {
        {
            let mut busy = self.busy.lock();
            while busy.0 > 0 {
                if self.quieter.wait_until(&mut busy, deadline).timed_out() {
                    return Err(self.plugin().error("shutdown", "operations were in flight when the time was over"));
                }
            }
        }
        let (Some(shutdown), None) = (self.functions.shutdown, self.failure()) else { return Ok(()) };
        let me = self.clone();
        self.called();
        let left = deadline.saturating_duration_since(Instant::now());
        let told = aside(deadline + grace(Duration::ZERO), move || {
            let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
            // SAFETY: as in `fail`.
            let (status, why) = Why::ask(|why| unsafe { shutdown(me.handle(), left, why) });
            me.returned();
            (status, why)
        })?;
        match told {
            Aside::Returned((status, why)) => verdict::status(self.plugin(), "shutdown", status, &why),
            Aside::Hangs => {
                self.plugin().given_up.fetch_add(1, Ordering::Relaxed);
                Err(self.plugin().error("shutdown", "it did not return in time"))
            }
        }
    }

    /// Nobody has the backend any more: what was started is still run, then the plugin's object goes. If the plugin
    /// never gives a call back, it stays.
    pub(super) fn retire(self: &Arc<Self>) {
        self.lanes.close();
        let me = self.clone();
        let _ = detached(move || {
            {
                let mut busy = me.busy.lock();
                while *busy != (0, 0) {
                    me.quieter.wait(&mut busy);
                }
            }
            if let (Some(destroy), Some(handle)) = (me.functions.destroy_group, me.handle.get())
                && *handle != 0
            {
                // SAFETY: validated; made by create_group, nothing is in flight, destroyed once.
                unsafe { destroy(*handle as *mut _) };
            }
        });
    }

    fn called(&self) {
        self.busy.lock().1 += 1;
    }

    fn returned(&self) {
        self.busy.lock().1 -= 1;
        self.quieter.notify_all();
    }

    pub(super) fn landed(&self) {
        self.busy.lock().0 -= 1;
        self.quieter.notify_all();
    }
}

/// On a lane's thread: gives the operation to the plugin.
fn board(token: slots::Token) {
    // Gone if its time was over while it stood in line.
    let Some(mut flight) = slots::board(token) else { return };
    let group = flight.group.clone();
    let refuse = |flight: Flight, error| {
        slots::unboard(token);
        flight.refuse(error);
    };
    if let Some(error) = group.failure() {
        return refuse(flight, error);
    }
    match lend::lend(group.plugin(), group.loaded.runtime().as_ref(), &flight.job) {
        Ok(lent) => flight.lent = lent,
        Err(e) => return refuse(flight, e),
    }
    let request = flight.job.request();
    let op = request.op;
    let remaining = request.deadline().saturating_duration_since(Instant::now());
    let call = call::call(request, &flight.lent, remaining);
    let (request, came_back) = (&raw const call.request, flight.returned.clone());
    flight.call = Some(call);
    let Some(submit) = group.functions.submit else { return refuse(flight, group.plugin().error("submit", "gone")) };
    group.called();
    let limit = flight.limit.min(group.limit());
    slots::give(token, flight);
    // The clock did not see the operation meanwhile.
    watch::at(limit);
    // SAFETY: validated; the request stays until the operation is done, and for ever if it is given up. The plugin may
    // end it during the call, and by the ABI does not look at it afterwards.
    let (status, why) = Why::ask(|why| unsafe { submit(group.handle(), request, Some(done::done), token, why) });
    came_back.store(true, Ordering::Release);
    group.returned();
    let Err(error) = verdict::status(group.plugin(), &format!("submit({op})"), status, &why) else { return };
    match slots::answered(token, |g| std::ptr::eq(g, &*group)) {
        slots::Found::Flight(flight) => flight.end(Err(error)),
        slots::Found::GivenUp => {}
        _ => {
            let what = format!("it called done and returned an error as well: {error}");
            group.fail(&group.plugin().error(&format!("submit({op})"), what));
        }
    }
}
