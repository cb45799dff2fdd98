//! A plugin's collectives as a backend.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Backend, Capabilities, GroupInit, Job};
use c10d_core::device::DeviceRuntime;
use c10d_core::{DispatchKey, Error, Result};

use super::group::Group;
use super::loaded::LoadedPlugin;

struct PluginBackend {
    name: &'static str,
    /// The capabilities for each kind of device. Those for host memory come first.
    offers: Vec<(DispatchKey, Capabilities)>,
    group: Arc<Group>,
    timeout: Duration,
}

impl PluginBackend {
    fn of(loaded: &LoadedPlugin, group: Arc<Group>, init: &GroupInit) -> Arc<dyn Backend> {
        let mut offers = loaded.table.collectives.as_ref().map_or(Vec::new(), |(_, offer)| offer.rows.clone());
        offers.sort_by_key(|(key, _)| *key);
        Arc::new(PluginBackend { name: loaded.hosted.name, offers, group, timeout: init.timeout })
    }
}

pub(super) fn create(loaded: &'static LoadedPlugin, init: &GroupInit) -> Result<Arc<dyn Backend>> {
    Ok(PluginBackend::of(loaded, Group::create(loaded, init)?, init))
}

// SAFETY: 1. The plugin gets copies, the operation's own buffers, or device memory that is retained. If the host ends a
// job while the plugin has it, the host leaks these (`Lent::write_off`). Only the thread that took the operation out of
// its slot touches its spans. 2. When half of `let_go` has passed after a job's deadline or after `abort`, the clock
// (`overdue`) ends the job, whatever the plugin does. `abort` takes no lock under which a job is completed. Exception:
// a plugin that the user trusts gets the caller's own memory, and only its answer ends the job.
unsafe impl Backend for PluginBackend {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> &Capabilities {
        self.offers.first().map_or(&Capabilities::ALL, |(_, offers)| offers)
    }

    fn capabilities_on(&self, key: DispatchKey) -> &Capabilities {
        let row = self.offers.iter().find(|(k, _)| *k == key);
        row.map_or_else(|| self.capabilities(), |(_, offers)| offers)
    }

    fn submit(&self, job: Job) {
        self.group.submit([job]);
    }

    fn submit_batch(&self, jobs: Vec<Job>) {
        match self.group.functions().submit_batch {
            Some(_) => self.group.submit(jobs),
            None => jobs.into_iter().for_each(|job| self.submit(job)),
        }
    }

    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        let part = self.group.split(ranks, init)?;
        Some(part.map(|part| PluginBackend::of(part.loaded(), part, init)))
    }

    fn no_split(&self) {
        self.group.no_split(self.timeout);
    }

    fn failure(&self) -> Option<Error> {
        self.group.failure()
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
