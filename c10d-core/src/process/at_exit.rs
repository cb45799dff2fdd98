//! What is to be done when the process ends: by a return of `main`, or `exit`.
#![allow(unsafe_code)]

use crate::sync::Mutex;

static LAST: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Has `act` called when the process ends in good order: what was asked for last comes first. However often it is asked for,
/// it is called once. A forked child calls it too; what `act` looks at should be a [`PerProcess`](super::PerProcess).
pub fn at_exit(act: fn()) {
    let mut last = LAST.lock();
    if last.is_empty() {
        // SAFETY: the function may be called at any time, from any thread, and does not unwind.
        let refused = unsafe { libc::atexit(run) };
        if refused != 0 {
            tracing::warn!("the system remembers no more functions for the end of the process");
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
