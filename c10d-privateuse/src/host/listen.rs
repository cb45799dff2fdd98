//! Asks plugins now and then what went wrong while nobody waited: one thread for each plugin that can tell.

use std::time::Duration;

use c10d_core::Result;
use c10d_core::panics::contain;

use super::groups;
use super::plugin::Hosted;
use super::timed_call::spawn_detached;

/// How long an error may go unheard.
const PERIOD: Duration = Duration::from_millis(100);

/// Sees to it that the plugin's groups are asked, as long as there are any.
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
        // A plugin that does not return keeps this thread, and nobody else: operations have their own clock.
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
