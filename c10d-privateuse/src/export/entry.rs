//! The entry: from a registration to tables.
#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock};

use c10d_core::device::DeviceRuntime;
use c10d_core::registry::Provider;
use c10d_core::{Capabilities, Error, Result};

use super::catch::caught;
use super::{collectives, device};
use crate::abi::{self, Sized32};

/// What a plugin is made of; the macros implement it.
pub trait Exported: 'static {
    /// The name, as in the note.
    const NAME: &'static str;
    /// The version of the plugin's crate.
    const VERSION: &'static str;
    /// Where backend and device are registered.
    fn provider() -> &'static Provider;
    /// What lasts as long as the process.
    fn state() -> &'static State;
}

/// The statics of one plugin.
pub struct State {
    parts: OnceLock<Parts>,
    pub(super) runtime: OnceLock<Result<Arc<dyn DeviceRuntime>>>,
}

/// The tables of one plugin.
struct Parts {
    device: Option<abi::Device>,
    /// What the collectives point to.
    _rows: Option<collectives::Rows>,
    collectives: Option<abi::Collectives>,
    plugin: OnceLock<abi::Plugin>,
}

// SAFETY: the tables point to each other and to statics, and are not written once they are made.
unsafe impl Sync for Parts {}
// SAFETY: as above.
unsafe impl Send for Parts {}

impl State {
    /// Nothing yet.
    #[allow(clippy::new_without_default, reason = "made by macros alone, in statics")]
    pub const fn new() -> State {
        State { parts: OnceLock::new(), runtime: OnceLock::new() }
    }
}

/// The device's runtime, opened at the first use.
pub(super) fn runtime<E: Exported>() -> Result<&'static Arc<dyn DeviceRuntime>> {
    let opened = E::state().runtime.get_or_init(|| {
        let found = E::provider().devices.iter().find(|d| d.name == E::NAME);
        let found = found.ok_or_else(|| Error::unsupported(format!("no device {:?} is registered", E::NAME)))?;
        (found.open)()
    });
    opened.as_ref().map_err(Clone::clone)
}

/// The tables, made at the first call; null if the provider does not have what was exported.
pub fn entry<E: Exported>(host: *const abi::Host, offers: Option<Capabilities>) -> *const abi::Plugin {
    let made = caught(|| {
        if host.is_null() {
            return std::ptr::null();
        }
        let parts = E::state().parts.get_or_init(|| parts::<E>(offers));
        if parts.device.is_none() && parts.collectives.is_none() {
            return std::ptr::null();
        }
        let pointer = |table: Option<&abi::Device>| table.map_or(std::ptr::null(), std::ptr::from_ref);
        std::ptr::from_ref(parts.plugin.get_or_init(|| abi::Plugin {
            abi_minor: u32::from(abi::MINOR),
            name: E::NAME.as_ptr().cast(),
            name_len: E::NAME.len() as u64,
            version: E::VERSION.as_ptr().cast(),
            version_len: E::VERSION.len() as u64,
            device: pointer(parts.device.as_ref()),
            collectives: parts.collectives.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
            ..abi::empty()
        }))
    });
    made.unwrap_or(std::ptr::null())
}

fn parts<E: Exported>(offers: Option<Capabilities>) -> Parts {
    let provider = E::provider();
    let device = provider.devices.iter().any(|d| d.name == E::NAME).then(device::table::<E>);
    let backend = offers.and_then(|offers| Some((offers, provider.backends.iter().find(|r| r.name == E::NAME)?)));
    let rows = backend.map(|(offers, r)| collectives::rows(&offers, r.keys)).filter(|rows| !rows.is_empty());
    let collectives = rows.as_ref().map(collectives::table::<E>);
    Parts { device, _rows: rows, collectives, plugin: OnceLock::new() }
}

const _: () = assert!(<abi::Plugin as Sized32>::LEAST == size_of::<abi::Plugin>());
