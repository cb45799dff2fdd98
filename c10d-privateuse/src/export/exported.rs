//! The trait for a backend or device that a vendor exports as a plugin, and the static variables of the plugin.
#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock};

use c10d_core::backend::Provider;
use c10d_core::device::DeviceRuntime;
use c10d_core::{Error, Result};

use super::rows::CapabilityRows;
use crate::abi;

/// A backend or device that a vendor exports as a plugin. The macros `export_backend` and `export_device` implement
/// this trait.
pub trait Exported: 'static {
    /// The plugin's name, as in the note.
    const NAME: &'static str;
    /// The version of the plugin's crate.
    const VERSION: &'static str;
    /// Returns the provider in which the backend and the device are registered.
    fn provider() -> &'static Provider;
    /// Returns the plugin's static variables.
    fn statics() -> &'static Statics;
}

/// The static variables of a plugin.
pub struct Statics {
    pub(super) tables: OnceLock<Tables>,
    pub(super) runtime: OnceLock<Result<Arc<dyn DeviceRuntime>>>,
}

pub(super) struct Tables {
    pub(super) device: Option<abi::Device>,
    /// The memory to which the table of collectives points.
    pub(super) _rows: Option<CapabilityRows>,
    pub(super) collectives: Option<abi::Collectives>,
    pub(super) plugin: OnceLock<abi::Plugin>,
}

// SAFETY: the tables point to each other, to `_rows` and to static variables, and nobody writes to them after they were
// made.
unsafe impl Sync for Tables {}
// SAFETY: the same as for `Sync`.
unsafe impl Send for Tables {}

impl Statics {
    /// Makes the static variables, without values.
    #[allow(clippy::new_without_default, reason = "made by macros alone, in statics")]
    pub const fn new() -> Statics {
        Statics { tables: OnceLock::new(), runtime: OnceLock::new() }
    }
}

/// Returns the device's runtime. The first call opens it.
pub(super) fn runtime<E: Exported>() -> Result<&'static Arc<dyn DeviceRuntime>> {
    let opened = E::statics().runtime.get_or_init(|| {
        let found = E::provider().devices.iter().find(|d| d.name == E::NAME);
        let found = found.ok_or_else(|| Error::unsupported(format!("no device {:?} is registered", E::NAME)))?;
        (found.open)()
    });
    opened.as_ref().map_err(Clone::clone)
}
