//! Regularly asks plugins for errors that occurred while no operation was waiting. There is one thread for each plugin
//! that has `async_error`.

use std::time::Duration;

use c10d_core::Result;
use c10d_core::panics::contain;

use super::groups;
use super::plugin::Hosted;
use super::timed_call::spawn_detached;

/// The pause before the thread asks all groups of the plugin again.
const PERIOD: Duration = Duration::from_millis(100);

/// Starts a thread that asks the plugin, if none is running. The thread ends when the plugin has no group any more.
pub(super) fn to(plugin: &'static Hosted) -> Result {
    let mut listening = plugin.listening.lock();
    if !*listening {
        spawn_detached(move || listen(plugin))?;
        *listening = true;
    }
    Ok(())
}

fn listen(plugin: &'static Hosted) {
    loop {
        std::thread::sleep(PERIOD);
        // A plugin that does not return blocks only this thread.
        for group in groups::of(plugin) {
            contain("asking a plugin for errors", || group.listen());
        }
        let mut listening = plugin.listening.lock();
        if groups::of(plugin).is_empty() {
            *listening = false;
            return;
        }
    }
}
