//! The plugins of this process. They are loaded once and stay.

use std::path::{Path, PathBuf};

use c10d_core::DispatchKey;
use c10d_core::registry::Provider;
use parking_lot::Mutex;

use crate::host::{Hosted, LoadedPlugin};

/// A plugin that stays.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
    pub(super) plugin: &'static LoadedPlugin,
    pub(super) provider: &'static Provider,
    /// The same, where another runtime has its kind of device.
    pub(super) without_device: &'static Provider,
}

/// Held while a search decides, so that two searches do not load one file twice.
pub(super) static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

impl Known {
    pub(super) fn same_file(&self, stat: &rustix::fs::Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }

    pub(super) fn new(path: &Path, stat: &rustix::fs::Stat, plugin: &'static LoadedPlugin) -> Known {
        let (provider, without_device) = (plugin.provider(true), plugin.provider(false));
        let (name, path) = (plugin.hosted.name.to_owned(), path.to_owned());
        Known { name, path, device: stat.st_dev, inode: stat.st_ino, plugin, provider, without_device }
    }

    /// What it brings, in words.
    pub(super) fn summary(&self) -> String {
        let table = &self.plugin.table;
        let mut parts = Vec::new();
        if let Some(device) = &table.device {
            let cuda = if self.plugin.drives() == Some(DispatchKey::Cuda) { "CUDA " } else { "" };
            parts.push(format!("{cuda}device{}", if device.reduce.is_some() { " that reduces" } else { "" }));
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
        format!("{} {version}, ABI 1.{}: {}{lost}", self.name, table.minor, parts.join(", "))
    }
}
