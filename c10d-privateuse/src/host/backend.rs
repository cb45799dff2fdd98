//! A plugin's collectives as a backend.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use c10d_core::device::DeviceRuntime;
use c10d_core::{Backend, Capabilities, Error, GroupInit, Job, Result};

use super::LoadedPlugin;
use super::group::Group;

/// One rank of one group, in a plugin.
struct PluginBackend {
    name: &'static str,
    capabilities: Capabilities,
    group: Arc<Group>,
}

pub(super) fn create(loaded: &'static LoadedPlugin, init: &GroupInit) -> Result<Arc<dyn Backend>> {
    let capabilities = loaded.table.collectives.as_ref().map_or(Capabilities::ALL, |(_, offer)| offer.capabilities);
    let group = Group::create(loaded, init)?;
    Ok(Arc::new(PluginBackend { name: loaded.hosted.name, capabilities, group }))
}

// SAFETY: 1. The plugin gets copies, the operation's own buffers, or counted handles; a job that is ended while the
// plugin has it leaves those behind (`Lent::write_off`), and its spans are only touched by whoever took it out of its
// slot. 2. The clock (`watch`) ends every job half of `let_go` after its deadline, or after `abort`, whatever the plugin
// does; `abort` takes no lock under which a job is completed.
unsafe impl Backend for PluginBackend {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn submit(&self, job: Job) {
        self.group.submit(job);
    }

    fn abort(&self, cause: &Error) {
        self.group.fail(cause);
    }

    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        self.group.device()
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        self.group.shutdown(deadline)
    }
}

impl Drop for PluginBackend {
    fn drop(&mut self) {
        self.group.retire();
    }
}
