//! Functions that run when the process ends, because `main` returns or `exit` is called.
#![allow(unsafe_code)]

use crate::sync::Mutex;

static LAST: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Registers `act`, which runs when the process ends normally. Functions that were registered later run first. A
/// function that is registered several times runs once. A forked child also runs it, so data that `act` uses should be
/// a [`PerProcess`](super::PerProcess).
pub fn at_exit(act: fn()) {
    let mut last = LAST.lock();
    if last.is_empty() {
        // SAFETY: `run` may be called at any time, from any thread, and does not unwind.
        let refused = unsafe { libc::atexit(run) };
        if refused != 0 {
            tracing::warn!(
                "the system cannot register a function for the end of the process: peers learn later, or only by \
                    timeouts, when this process ends without leaving its groups"
            );
        }
    }
    if !last.contains(&act) {
        last.push(act);
    }
}

extern "C" fn run() {
    let acts = LAST.try_lock().map(|last| last.clone()).unwrap_or_default();
    for act in acts.into_iter().rev() {
        let _ = std::panic::catch_unwind(act);
    }
}
