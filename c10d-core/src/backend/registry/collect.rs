//! The registry of a program, which contains the registrations of all providers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::offers::{Choice, offers};
use super::open::open;
use super::{BackendMap, CORE, DeviceRegistration, InitMethod, Kernel, Provider, Registration, Submitted};
use crate::catalog::OpKind;
use crate::device::{DeviceRuntime, Seat};
use crate::types::DispatchKey;
use crate::{Error, ErrorKind, Result};

/// All registrations: core's kernels, the listed providers, and the providers that crates submitted with
/// [`submit!`](crate::submit).
pub struct Registry {
    backends: Vec<(&'static Registration, &'static str)>,
    devices: Vec<(&'static DeviceRegistration, &'static str)>,
    kernels: BTreeMap<(OpKind, DispatchKey, Option<&'static str>), (Kernel, &'static str)>,
    pub(super) init_methods: Vec<(&'static InitMethod, &'static str)>,
    pub(super) providers: Vec<&'static Provider>,
}

/// A row of the registration table, as `c10d info` shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TableRow {
    /// The op.
    pub op: OpKind,
    /// The dispatch key.
    pub key: DispatchKey,
    /// The crate of the kernel.
    pub source: Option<&'static str>,
    /// The backend that a new group would choose.
    pub backend: Option<String>,
    /// Why there is no kernel or no backend.
    pub why: Option<String>,
}

impl Registry {
    /// Collects core's provider, the `listed` providers and all submitted providers. A provider may be in `listed`
    /// several times.
    ///
    /// `collect` loads no plugins. [`Builder::registry`](crate::Builder::registry) includes the plugins that its
    /// builder asks for.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if two providers register the same backend, device, init method or (op, dispatch key,
    /// backend); the error names both providers. `InvalidArgument` also if the name of a backend or device is empty or
    /// has characters that are not allowed, or if a kernel is for an op and dispatch key that the op table does not
    /// declare.
    pub fn collect(listed: &[&'static Provider]) -> Result<Registry> {
        let mut providers: Vec<&'static Provider> = vec![&CORE];
        let submitted = inventory::iter::<Submitted>.into_iter().map(|s| s.0);
        for p in listed.iter().copied().chain(submitted) {
            if !providers.iter().any(|q| std::ptr::eq(*q, p)) {
                providers.push(p);
            }
        }
        let (backends, devices, kernels, init_methods) = Default::default();
        let mut registry = Registry { backends, devices, kernels, init_methods, providers };
        for p in registry.providers.clone() {
            registry.add(p)?;
        }
        registry.backends.sort_by_key(|(r, _)| (std::cmp::Reverse(r.priority), r.name));
        registry.devices.sort_by_key(|(d, _)| d.name);
        Ok(registry)
    }

    fn add(&mut self, provider: &'static Provider) -> Result {
        let names = provider.backends.iter().map(|r| r.name).chain(provider.devices.iter().map(|d| d.name));
        for name in names {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                let what =
                    format!("{} registers the name {name:?}: letters, digits, - _ . + are allowed", provider.source);
                return Err(Error::invalid(what));
            }
        }
        for r in provider.backends {
            if let Some((_, other)) = self.backends.iter().find(|(q, _)| q.name == r.name) {
                return Err(twice(format!("backend {:?}", r.name), other, provider.source));
            }
            self.backends.push((r, provider.source));
        }
        for d in provider.devices {
            if let Some((_, other)) = self.devices.iter().find(|(e, _)| e.name == d.name) {
                return Err(twice(format!("device {:?}", d.name), other, provider.source));
            }
            self.devices.push((d, provider.source));
        }
        for method in provider.init_methods {
            if let Some((_, other)) = self.init_methods.iter().find(|(m, _)| m.scheme == method.scheme) {
                return Err(twice(format!("init method {:?}", method.scheme), other, provider.source));
            }
            self.init_methods.push((method, provider.source));
        }
        for row in provider.kernels {
            let place = (row.op, row.key, row.backend);
            if !row.op.row().keys.contains(row.key) {
                let what = format!(
                    "{} registers {} on {}, which the op table does not declare",
                    provider.source, row.op, row.key
                );
                return Err(Error::invalid(what));
            }
            if let Some((_, other)) = self.kernels.insert(place, (row.kernel, provider.source)) {
                let on = row.backend.map_or(String::new(), |b| format!(" for backend {b:?}"));
                return Err(twice(format!("{} on {}{on}", row.op, row.key), other, provider.source));
            }
        }
        Ok(())
    }

    /// Returns the declared hints, in the order of the providers.
    pub fn hints(&self) -> impl Iterator<Item = &'static str> {
        self.providers.iter().flat_map(|p| p.hints).copied()
    }

    /// Returns the declared variables. A variable that several providers declare appears several times.
    pub fn variables(&self) -> impl Iterator<Item = &'static str> {
        self.providers.iter().flat_map(|p| p.variables).copied()
    }

    /// Returns the backends with the names of their crates, in order of preference.
    pub fn backends(&self) -> impl Iterator<Item = (&'static Registration, &'static str)> {
        self.backends.iter().copied()
    }

    /// Returns the backend with this name.
    ///
    /// # Errors
    /// `Unsupported` if there is no such backend. The error lists all backends. If a provider lists the name in
    /// [`Provider::absent`], the error contains the advice from there.
    pub fn backend(&self, name: &str) -> Result<&'static Registration> {
        self.backends.iter().map(|(r, _)| *r).find(|r| r.name == name).ok_or_else(|| {
            let have: Vec<_> = self.backends.iter().map(|(r, _)| r.name).collect();
            let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
            let advice = self.providers.iter().flat_map(|p| p.absent).find(|(absent, _)| *absent == name);
            let advice = advice.map_or_else(String::new, |(_, advice)| format!("; {advice}"));
            Error::unsupported(format!("no backend is named {name:?}; available: {have}{advice}"))
        })
    }

    /// Returns the kinds of devices with the names of their crates, in the order of the devices' names.
    pub fn devices(&self) -> impl Iterator<Item = (&'static DeviceRegistration, &'static str)> {
        self.devices.iter().copied()
    }

    /// Returns the runtime of the devices with this name, which is opened at the first call in the process.
    ///
    /// # Errors
    /// `Unsupported` if there are no such devices. Otherwise the error of [`DeviceRegistration::open`].
    pub fn device(&self, name: &str) -> Result<Arc<dyn DeviceRuntime>> {
        let found = self.devices.iter().find(|(d, _)| d.name == name);
        let (registration, _) = found.ok_or_else(|| {
            let have: Vec<_> = self.devices.iter().map(|(d, _)| d.name).collect();
            let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
            Error::unsupported(format!("no device is named {name:?}; available: {have}"))
        })?;
        open(registration)
    }

    /// Returns the kernel for this op and dispatch key in a group in which `backend` serves the key, and the name of
    /// the kernel's crate.
    pub fn kernel(&self, op: OpKind, key: DispatchKey, backend: &str) -> Option<(Kernel, &'static str)> {
        let own = self.backends.iter().find(|(r, _)| r.name == backend);
        let own = own.and_then(|(r, _)| self.kernels.get(&(op, key, Some(r.name))));
        own.or_else(|| self.kernels.get(&(op, key, None))).copied()
    }

    /// Returns whether there is a kernel for this op and dispatch key that was registered for this backend only. Such a
    /// kernel runs its ops on this backend.
    pub(crate) fn has_own_kernel(&self, op: OpKind, key: DispatchKey, backend: &str) -> bool {
        self.kernels.keys().any(|(o, k, of)| (*o, *k, *of) == (op, key, Some(backend)))
    }

    /// Returns the 60 declared rows, with the kernels and backends that a group with this backend map would have on
    /// this rank.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unsupported` if the map names a device or backend that is not registered, or a backend
    /// that cannot serve its device.
    pub fn table(&self, map: &BackendMap) -> Result<Vec<TableRow>> {
        let offers = offers(self, map, &Seat::default())?;
        let chosen = DispatchKey::ALL.map(|key| {
            let offer = offers.iter().find(|o| o.word == key.device_word());
            let choices = offer.map_or(Err(String::new()), |o| o.choices.as_ref().map_err(String::clone));
            choices.map(|choices| choices.first().map_or(String::new(), Choice::name))
        });
        let mut rows = Vec::new();
        for op in OpKind::ALL.iter().copied() {
            for key in DispatchKey::ALL.into_iter().filter(|k| op.row().keys.contains(*k)) {
                let backend = chosen[key as usize].as_ref();
                let kernel = self.kernel(op, key, backend.map_or("", |b| b));
                let why = match (&kernel, backend) {
                    (None, _) => {
                        Some("declared without a kernel: the crate that provides the kernel is not linked".to_owned())
                    }
                    (_, Err(why)) => Some(why.clone()),
                    _ => None,
                };
                rows.push(TableRow { op, key, source: kernel.map(|k| k.1), backend: backend.ok().cloned(), why });
            }
        }
        Ok(rows)
    }
}

fn twice(what: String, first: &str, second: &str) -> Error {
    let what = format!("{what} is registered twice: by {first} and by {second}; link only one of them");
    Error::new(ErrorKind::InvalidArgument, what)
}
