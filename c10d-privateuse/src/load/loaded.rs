//! The plugins that this process has loaded. They are loaded once, and stay loaded.

use c10d_core::DispatchKey;
use c10d_core::backend::Provider;
use c10d_core::sync::Mutex;

use crate::host::{Hosted, LoadedPlugin};
use crate::refusal::Refusal;

/// A file whose entry was called. Its file system (`device`) and inode number identify the file: the file stays mapped,
/// so no other file gets the same numbers.
pub(super) struct CalledFile {
    device: u64,
    inode: u64,
    pub(super) came_to: Result<Loaded, Refusal>,
}

#[derive(Clone, Copy)]
pub(super) struct Loaded {
    pub(super) plugin: &'static LoadedPlugin,
    pub(super) provider: &'static Provider,
    /// The provider without the device part, for use if the runtime of a linked crate or of another plugin already
    /// drives this kind of device.
    pub(super) without_device: &'static Provider,
}

/// The files whose entries were called. A search holds the lock, so that no two searches load the same file.
pub(super) static KNOWN: Mutex<Vec<CalledFile>> = Mutex::new(Vec::new());

impl CalledFile {
    pub(super) fn same_file(&self, stat: &rustix::fs::Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }

    pub(super) fn new(stat: &rustix::fs::Stat, came_to: Result<Loaded, Refusal>) -> CalledFile {
        CalledFile { device: stat.st_dev, inode: stat.st_ino, came_to }
    }
}

impl Loaded {
    pub(super) fn new(plugin: &'static LoadedPlugin) -> Loaded {
        Loaded { plugin, provider: plugin.provider(true), without_device: plugin.provider(false) }
    }

    /// Returns a text with the plugin's name, versions and parts.
    pub(super) fn summary(&self) -> String {
        let table = &self.plugin.table;
        let mut parts = Vec::new();
        if table.device.is_some() {
            let cuda = if self.plugin.drives() == Some(DispatchKey::Cuda) { "CUDA " } else { "" };
            parts.push(format!("{cuda}device"));
        }
        if table.collectives.is_some() {
            parts.push("collectives".to_owned());
        }
        let version = if table.version.is_empty() { "-" } else { &table.version };
        let (lost, calls) = Hosted::written_off(self.plugin.hosted);
        if self.plugin.hosted.is_trusted() {
            parts.push("trusted with the callers' memory".to_owned());
        }
        let lost = if lost + calls == 0 { String::new() } else { format!("; {lost} bytes and {calls} calls given up") };
        format!("{} {version}, ABI 1.{}: {}{lost}", self.plugin.hosted.name, table.minor, parts.join(", "))
    }
}
