//! Asks plugins regularly for errors that occurred while nothing was waiting, with one thread for each plugin that
//! supports it.

use std::time::Duration;

use c10d_core::Result;
use c10d_core::panics::contain;

use super::groups;
use super::plugin::Hosted;
use super::timed_call::spawn_detached;

/// The interval of these questions.
const PERIOD: Duration = Duration::from_millis(100);

/// Starts asking the plugin's groups, while there are any.
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
        // A plugin that does not return blocks only this thread: operations have their own clock.
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
