//! The end of a program that has not left its groups, because they are in a `static` or it calls `process::exit`. The
//! peers are told. So they do not take the end for a sudden death, and those that need nothing more go on.
#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;

/// A rank that is told of the end of the program.
pub(crate) trait Mortal: Send + Sync + 'static {
    /// Whether data would be lost by an end now, after waiting this long. It is called until it returns `false`.
    fn holds_up(&self, waited: Duration) -> bool;
    /// Handles the end of the program.
    fn end(&self);
}

/// A forked child has its own empty list, since its end is not that of the parent's program.
#[derive(Default)]
struct Living {
    mortals: Mutex<Vec<Weak<dyn Mortal>>>,
    registered: OnceLock<()>,
}

static LIVING: PerProcess<Living> = PerProcess::new();

/// Registers `mortal`, which is told of the end of the program if it still exists then. It is not told of an end by a
/// signal, `abort` or `_exit`.
pub(crate) fn tell(mortal: Weak<dyn Mortal>) {
    let living = LIVING.get();
    let mut mortals = living.mortals.lock();
    mortals.retain(|m| m.strong_count() > 0);
    mortals.push(mortal);
    living.registered.get_or_init(|| {
        // SAFETY: the function exists as long as the code that registers it, and does not unwind. If there is no room
        // to register it, peers see a sudden death instead.
        let _ = unsafe { libc::atexit(at_exit) };
    });
}

extern "C" fn at_exit() {
    // A panic must not leave this function; the peers see a sudden death then.
    let _ = std::panic::catch_unwind(|| {
        let living: Vec<Arc<dyn Mortal>> = LIVING.get().mortals.lock().drain(..).filter_map(|m| m.upgrade()).collect();
        let begin = Instant::now();
        while living.iter().any(|mortal| mortal.holds_up(begin.elapsed())) {
            std::thread::sleep(Duration::from_millis(1));
        }
        living.iter().for_each(|mortal| mortal.end());
        // They are leaked, since dropping them would say goodbye.
        std::mem::forget(living);
    });
}
