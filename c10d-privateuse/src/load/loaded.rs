//! The plugins of this process. They are loaded once and stay.

use std::path::{Path, PathBuf};

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
}

/// Held while a search decides, so that two searches do not load one file twice.
pub(super) static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

impl Known {
    pub(super) fn same_file(&self, stat: &rustix::fs::Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }

    pub(super) fn new(path: &Path, stat: &rustix::fs::Stat, plugin: &'static LoadedPlugin) -> Known {
        let provider = plugin.provider();
        let name = plugin.hosted.name.to_owned();
        Known { name, path: path.to_owned(), device: stat.st_dev, inode: stat.st_ino, plugin, provider }
    }

    /// What it brings, in words.
    pub(super) fn summary(&self) -> String {
        let table = &self.plugin.table;
        let mut parts = Vec::new();
        if let Some(device) = &table.device {
            parts.push(if device.reduce.is_some() { "device that reduces" } else { "device" });
        }
        if table.collectives.is_some() {
            parts.push("collectives");
        }
        let version = if table.version.is_empty() { "-" } else { &table.version };
        let (lost, calls) = Hosted::written_off(self.plugin.hosted);
        let lost = if lost + calls == 0 { String::new() } else { format!("; {lost} bytes and {calls} calls given up") };
        format!("{} {version}, ABI 1.{}: {}{lost}", self.name, table.minor, parts.join(", "))
    }
}
