//! The existing groups of each plugin.

use std::sync::{Arc, Weak};

use c10d_core::Error;
use c10d_core::sync::Mutex;

use super::group::Group;
use super::plugin::Hosted;

static GROUPS: Mutex<Vec<(&'static Hosted, Weak<Group>)>> = Mutex::new(Vec::new());

pub(super) fn add(group: &Arc<Group>) {
    let mut groups = GROUPS.lock();
    groups.retain(|(_, group)| group.strong_count() > 0);
    groups.push((group.plugin(), Arc::downgrade(group)));
}

pub(super) fn of(plugin: &Hosted) -> Vec<Arc<Group>> {
    let groups = GROUPS.lock();
    groups.iter().filter(|(of, _)| std::ptr::eq(*of, plugin)).filter_map(|(_, group)| group.upgrade()).collect()
}

/// Makes all groups of a plugin fail. The plugin broke its contract in an unknown group.
pub(super) fn end_all(plugin: &Hosted, error: Error) {
    plugin.set_broken(&error);
    for group in of(plugin) {
        group.fail(&error);
    }
    tracing::error!(target: "c10d::plugin", plugin = plugin.name, "{error}");
}
