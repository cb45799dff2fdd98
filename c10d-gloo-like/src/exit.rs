//! The end of a program that has not left its groups, because they are in a `static` or it calls `process::exit`. The
//! peers are told, so they do not take the end for a sudden death. Peers that need nothing more from this rank go on.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use c10d_core::process::{PerProcess, at_exit};
use c10d_core::sync::Mutex;

/// A rank that is told of the end of the program.
pub(crate) trait Mortal: Send + Sync + 'static {
    /// Whether data would be lost if the program ended now. `waited` is the time since the program began to end. This
    /// is called until it returns `false`.
    fn holds_up(&self, waited: Duration) -> bool;
    /// Handles the end of the program.
    fn end(&self);
}

/// A forked child has its own empty list, since its end is not that of the parent's program.
static LIVING: PerProcess<Mutex<Vec<Weak<dyn Mortal>>>> = PerProcess::new();

/// Registers `mortal`, which is told of the end of the program if it still exists then. It is not told of an end by a
/// signal, `abort` or `_exit`.
pub(crate) fn tell(mortal: Weak<dyn Mortal>) {
    let mut living = LIVING.get().lock();
    living.retain(|m| m.strong_count() > 0);
    living.push(mortal);
    drop(living);
    // If the handler cannot be registered, or panics, the peers see a sudden death.
    at_exit(end_all);
}

fn end_all() {
    let living: Vec<Arc<dyn Mortal>> = LIVING.get().lock().drain(..).filter_map(|m| m.upgrade()).collect();
    let begin = Instant::now();
    while living.iter().any(|mortal| mortal.holds_up(begin.elapsed())) {
        std::thread::sleep(Duration::from_millis(1));
    }
    living.iter().for_each(|mortal| mortal.end());
    // The references are leaked, since dropping them would send a goodbye.
    std::mem::forget(living);
}
