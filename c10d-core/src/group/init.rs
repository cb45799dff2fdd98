//! What a backend gets when it is made for a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::routes::lasting;
use crate::backend::Backend;
use crate::device::{DeviceRuntime, Seat};
use crate::dispatch::Choice;
use crate::registry::Registry;
use crate::staged::Staged;
use crate::store::{PrefixStore, Store};
use crate::{Error, Result};

/// What a backend gets when it is made for a group.
#[non_exhaustive]
pub struct GroupInit {
    /// The group's name, the same on all ranks.
    pub group: Arc<str>,
    /// This rank.
    pub rank: u32,
    /// How many ranks.
    pub size: u32,
    /// Random, the same on all ranks, different for every group ever made.
    pub session: [u8; 16],
    /// A part of the store that this group has for itself.
    pub store: Arc<dyn Store>,
    /// The store as the group's maker gave it, for a backend that meets ranks of another library there.
    pub root: Arc<dyn Store>,
    /// How long an op may take unless it says otherwise.
    pub timeout: Duration,
    /// When the backend must be ready.
    pub deadline: Instant,
    /// Free-form settings, e.g. `gloo-like.transport` = `tcp`.
    pub hints: Arc<BTreeMap<String, String>>,
    /// The name of the backend that the ranks agreed on for the CPU, if there is any.
    pub cpu: Option<&'static str>,
    pub(crate) seat: Seat,
    pub(crate) registry: Arc<Registry>,
    /// The backends that the group has so far.
    pub(crate) made: Arc<Mutex<Backends>>,
    /// Of a sub-group: the backends of the group that it is part of, and its ranks in that one.
    pub(crate) parent: Option<Arc<Parent>>,
}

/// What a sub-group is made from.
pub(crate) struct Parent {
    pub(crate) backends: Backends,
    /// The members, in the numbering of the parent.
    pub(crate) ranks: Vec<u32>,
    /// The parent's other ranks take no part: they are gone, or are to be left behind.
    pub(crate) shrinks: bool,
}

/// Backends by name.
pub(crate) type Backends = Vec<(&'static str, Arc<dyn Backend>)>;

impl GroupInit {
    /// A setting.
    pub fn hint(&self, name: &str) -> Option<&str> {
        self.hints.get(name).map(String::as_str)
    }

    /// Which of the runtime's devices is this rank's: the one that the program bound it to, else what
    /// [`DeviceRuntime::default_index`] says.
    pub fn device_index(&self, runtime: &dyn DeviceRuntime) -> Result<Option<u16>> {
        let any = runtime.device(0);
        self.seat.index((any.key(), any.vendor()), runtime)
    }

    /// The backend of a choice, and its name in errors.
    pub(super) fn make(&self, choice: &Choice) -> Result<(&'static str, Arc<dyn Backend>)> {
        match choice {
            Choice::Native(r) => Ok((r.name, self.backend(r.name)?)),
            Choice::Staged { device, cpu } => {
                let name = lasting(format!("{} staged by {}", device.name, cpu.name));
                let (runtime, cpu) = (self.registry.device(device.name)?, self.own_backend(cpu.name, device.name)?);
                Ok((name, Arc::new(Staged::new(name, runtime, cpu, self)?)))
            }
        }
    }

    /// A backend of this name for the caller alone, who decides the order of what it is given; `purpose` tells several of
    /// one group apart. Every rank makes it.
    pub fn own_backend(&self, name: &str, purpose: &str) -> Result<Arc<dyn Backend>> {
        let mut session = self.session;
        purpose.bytes().enumerate().for_each(|(i, b)| session[i % 16] = session[i % 16].rotate_left(3) ^ b);
        let own = GroupInit {
            group: self.group.clone(),
            session,
            store: Arc::new(PrefixStore::new(format!("for/{purpose}"), self.store.clone())),
            root: self.root.clone(),
            hints: self.hints.clone(),
            seat: self.seat.clone(),
            registry: self.registry.clone(),
            made: Arc::default(),
            parent: None,
            ..*self
        };
        own.backend(name)
    }

    /// The group's backend of this name, made at the first call. A backend may so stand on another (a device's on the
    /// CPU's).
    pub fn backend(&self, name: &str) -> Result<Arc<dyn Backend>> {
        if let Some((_, backend)) = self.made.lock().iter().find(|(n, _)| *n == name) {
            return Ok(backend.clone());
        }
        let registration = self.registry.backend(name)?;
        let name = registration.name;
        let mine = GroupInit {
            group: self.group.clone(),
            store: Arc::new(PrefixStore::new(name, self.store.clone())),
            root: self.root.clone(),
            hints: self.hints.clone(),
            seat: self.seat.clone(),
            registry: self.registry.clone(),
            made: self.made.clone(),
            parent: None,
            ..*self
        };
        let cheaper = self.parent.as_deref().and_then(|Parent { backends, ranks, shrinks }| {
            let (_, backend) = backends.iter().find(|(n, _)| *n == name)?;
            if *shrinks { backend.shrink(ranks, &mine) } else { backend.split(ranks, &mine) }
        });
        let backend = cheaper.unwrap_or_else(|| (registration.create)(&mine)).map_err(|mut e: Error| {
            let report = e.report_mut();
            report.group.get_or_insert_with(|| self.group.clone());
            report.rank.get_or_insert(self.rank);
            if report.backend.is_empty() {
                report.backend = name;
            }
            e
        })?;
        self.made.lock().push((name, backend.clone()));
        Ok(backend)
    }
}
