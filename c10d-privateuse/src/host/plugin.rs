//! A plugin in this process: its table, the host's table made for it, and what it did wrong.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use c10d_core::device::DeviceRuntime;
use c10d_core::registry::{DeviceRegistration, Provider, Registration};
use c10d_core::sync::Mutex;
use c10d_core::{DispatchKey, Error, ErrorKind, GroupInit, Result};

use super::aside::{Aside, aside};
use super::device::PluginDevice;
use super::group::Group;
use super::{backend, serve};
use crate::abi::{self, Why};
use crate::table::Table;

/// What the host keeps of a plugin; never freed. The table comes first, so that its address is also this one's.
#[repr(C)]
pub(crate) struct Hosted {
    table: abi::Host,
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    /// How it broke its contract, if it did.
    broken: OnceLock<Error>,
    groups: Mutex<Vec<Weak<Group>>>,
    /// Works on the callers' own memory: the user vouches for it by name.
    trusted: AtomicBool,
    /// Whether somebody asks the groups what went wrong.
    pub(super) listening: Mutex<bool>,
    /// Bytes lent to operations that never ended.
    pub(super) written_off: AtomicU64,
    /// Calls that were given up, with their threads.
    pub(super) given_up: AtomicU64,
}

// SAFETY: the table is never written after it was made; the rest is `Sync` by itself.
unsafe impl Sync for Hosted {}
// SAFETY: as above.
unsafe impl Send for Hosted {}

/// How long the plugin's code may take where no caller says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// The address of every host table that was ever given out.
static TABLES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

impl Hosted {
    pub(crate) fn leak(name: &str, path: &Path) -> &'static Hosted {
        let hosted: &'static Hosted = Box::leak(Box::new(Hosted {
            table: serve::table(),
            name: String::leak(name.to_owned()),
            path: path.to_owned(),
            broken: OnceLock::new(),
            groups: Mutex::new(Vec::new()),
            trusted: AtomicBool::new(false),
            listening: Mutex::new(false),
            written_off: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }));
        TABLES.lock().push(std::ptr::from_ref(hosted) as usize);
        hosted
    }

    /// What the plugin is given.
    pub(crate) fn table(&self) -> *const abi::Host {
        std::ptr::from_ref(self).cast()
    }

    /// Whose table this is; `None` for an address that the plugin made up.
    pub(super) fn of(table: *const abi::Host) -> Option<&'static Hosted> {
        let known = TABLES.lock().contains(&(table as usize));
        // SAFETY: one of ours, which are never freed.
        known.then(|| unsafe { &*table.cast::<Hosted>() })
    }

    /// An error that names the plugin and the call.
    pub(super) fn error(&self, call: &str, why: impl std::fmt::Display) -> Error {
        let what = format!("plugin {:?} ({}), {call}: {why}", self.name, self.path.display());
        Error::new(ErrorKind::Plugin, what)
    }

    /// Runs code of the plugin for which nobody has a deadline: on a thread of its own, which is given up if it hangs.
    pub(crate) fn in_time<T: Send + 'static>(&self, call: &str, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match aside(Instant::now() + PATIENCE, f)? {
            Aside::Returned(value) => Ok(value),
            Aside::Hangs => Err(self.gave_up(call)),
        }
    }

    /// A call that did not return in time.
    pub(super) fn gave_up(&self, call: &str) -> Error {
        self.given_up.fetch_add(1, Ordering::Relaxed);
        self.error(call, "it did not return in time")
    }

    /// Notes that the plugin broke its contract where no group can be told apart: all of its groups end.
    pub(super) fn break_with(&self, error: Error) {
        let _ = self.broken.set(error.clone());
        for group in self.groups() {
            group.fail(&error);
        }
        tracing::error!(target: "c10d::plugin", plugin = self.name, "{error}");
    }

    /// The groups that there are.
    pub(super) fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    pub(super) fn broken(&self) -> Option<&Error> {
        self.broken.get()
    }

    pub(super) fn joined_by(&self, group: &Arc<Group>) {
        let mut groups = self.groups.lock();
        groups.retain(|g| g.strong_count() > 0);
        groups.push(Arc::downgrade(group));
    }

    pub(crate) fn written_off(&self) -> (u64, u64) {
        (self.written_off.load(Ordering::Relaxed), self.given_up.load(Ordering::Relaxed))
    }
}

/// A plugin that was loaded and validated; never freed.
pub(crate) struct LoadedPlugin {
    pub(crate) hosted: &'static Hosted,
    pub(crate) table: Table,
    device: Option<Arc<PluginDevice>>,
}

/// A plugin's own device comes before staging, but never before what is built in.
const PRIORITY: u16 = 10;

impl LoadedPlugin {
    pub(crate) fn leak(hosted: &'static Hosted, table: Table) -> &'static LoadedPlugin {
        let device = table.device.map(|d| Arc::new(PluginDevice::new(hosted, d)));
        Box::leak(Box::new(LoadedPlugin { hosted, table, device }))
    }

    pub(super) fn runtime(&self) -> Option<Arc<dyn DeviceRuntime>> {
        self.device.clone().map(|d| d as Arc<dyn DeviceRuntime>)
    }

    /// The kind of device that its device part drives.
    pub(crate) fn drives(&self) -> Option<DispatchKey> {
        self.device.as_ref().map(|device| device.key())
    }

    /// The plugin as core's registry has crates: leaked, since plugins are never unloaded. `device`: its device part, too.
    pub(crate) fn provider(&'static self, device: bool) -> &'static Provider {
        let backends: Vec<Registration> =
            self.table.collectives.iter().map(|(_, offer)| self.backend(offer.keys())).collect();
        let devices: Vec<DeviceRegistration> =
            self.device.iter().filter(|_| device).map(|device| registration(device.clone())).collect();
        Box::leak(Box::new(Provider {
            source: String::leak(format!("plugin {}", self.hosted.path.display())),
            backends: backends.leak(),
            devices: devices.leak(),
            ..Provider::EMPTY
        }))
    }

    fn backend(&'static self, keys: impl Iterator<Item = DispatchKey>) -> Registration {
        Registration {
            name: self.hosted.name,
            keys: keys.collect::<Vec<_>>().leak(),
            priority: PRIORITY,
            probe: Box::leak(Box::new(move || self.probe())),
            create: Box::leak(Box::new(move |init: &GroupInit| backend::create(self, init))),
        }
    }

    fn probe(&self) -> Result {
        if let Some(error) = self.hosted.broken() {
            return Err(error.clone());
        }
        let Some(probe) = self.table.collectives.as_ref().and_then(|(c, _)| c.probe) else { return Ok(()) };
        // SAFETY: validated; `why` is good for the call.
        let asked = self.hosted.in_time("probe", move || Why::ask(|why| unsafe { probe(why) }));
        // One that hung is not asked again: each question would cost the time, and a thread.
        let (status, why) = asked.inspect_err(|e| drop(self.hosted.broken.set(e.clone())))?;
        super::verdict::status(self.hosted, "probe", status, &why)
    }
}

fn registration(device: Arc<PluginDevice>) -> DeviceRegistration {
    let key = device.key();
    // CUDA's buffers are one kind, whoever drives the device.
    let name = if key == DispatchKey::Cuda { key.device_word() } else { device.name() };
    let open = move || Ok(device.clone() as Arc<dyn DeviceRuntime>);
    DeviceRegistration { name, key, open: Box::leak(Box::new(open)) }
}
