//! A plugin as a provider for core's registry.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::backend::{DeviceRegistration, GroupInit, Provider, Registration};
use c10d_core::device::DeviceRuntime;
use c10d_core::{DispatchKey, Result};

use super::device::PluginDevice;
use super::loaded::LoadedPlugin;
use super::{answer, backend};
use crate::abi::Why;

/// The priority of a plugin's collectives: before staging, and after every built-in backend.
const PRIORITY: u16 = 10;

/// The prefix of `source` in the providers of plugins.
const SOURCE: &str = "plugin ";

pub(crate) fn is_plugin(source: &str) -> bool {
    source.starts_with(SOURCE)
}

impl LoadedPlugin {
    /// Makes the plugin's provider, with or without its device part. The provider is leaked.
    pub(crate) fn provider(&'static self, device: bool) -> &'static Provider {
        let backends: Vec<Registration> =
            self.table.collectives.iter().map(|(_, offer)| self.backend(offer.keys())).collect();
        let devices: Vec<DeviceRegistration> =
            self.device.iter().filter(|_| device).map(|device| registration(device.clone())).collect();
        Box::leak(Box::new(Provider {
            source: String::leak(format!("{SOURCE}{}", self.hosted.path.display())),
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
        // SAFETY: the function was validated, and `why` is valid during the call.
        let asked = self.hosted.in_time("probe", move || Why::ask(|why| unsafe { probe(why) }));
        // A plugin whose probe hung is not asked again.
        let (status, why) = asked.inspect_err(|e| self.hosted.set_broken(e))?;
        answer::status(self.hosted, "probe", status, &why)
    }
}

fn registration(device: Arc<PluginDevice>) -> DeviceRegistration {
    let key = device.key();
    // The name of CUDA devices is `cuda` with every runtime.
    let name = if key == DispatchKey::Cuda { key.device_word() } else { device.name() };
    let open = move || Ok(device.clone() as Arc<dyn DeviceRuntime>);
    DeviceRegistration { name, key, open: Box::leak(Box::new(open)) }
}
