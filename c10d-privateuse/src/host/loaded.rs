//! A plugin that was loaded: its table, and its device.

use std::sync::Arc;

use c10d_core::DispatchKey;
use c10d_core::device::DeviceRuntime;

use super::device::PluginDevice;
use super::plugin::Hosted;
use crate::table::Table;

/// A plugin that was loaded and validated. It is never freed.
pub(crate) struct LoadedPlugin {
    pub(crate) hosted: &'static Hosted,
    pub(crate) table: Table,
    pub(super) device: Option<Arc<PluginDevice>>,
}

impl LoadedPlugin {
    pub(crate) fn leak(hosted: &'static Hosted, table: Table) -> &'static LoadedPlugin {
        let device = table.device.map(|d| Arc::new(PluginDevice::new(hosted, d)));
        Box::leak(Box::new(LoadedPlugin { hosted, table, device }))
    }

    pub(super) fn runtime(&self) -> Option<Arc<dyn DeviceRuntime>> {
        self.device.clone().map(|d| d as Arc<dyn DeviceRuntime>)
    }

    pub(crate) fn drives(&self) -> Option<DispatchKey> {
        self.device.as_ref().map(|device| device.key())
    }
}
