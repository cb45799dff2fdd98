//! Handles the end of a program that has not left its groups, for example by `process::exit`. A message tells the peers
//! that the end is no sudden death. Peers that need no more data from this rank continue.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use c10d_core::process::{PerProcess, at_exit};
use c10d_core::sync::Mutex;

/// A rank that is notified when the program ends.
pub(crate) trait OnExit: Send + Sync + 'static {
    /// Whether data would be lost if the program, which began to end `waited` ago, ended now. Called until it returns
    /// `false`.
    fn holds_up(&self, waited: Duration) -> bool;
    /// Handles the end of the program.
    fn end(&self);
}

/// A forked child has its own empty list: the child's end is not the end of the parent's program.
static RANKS: PerProcess<Mutex<Vec<Weak<dyn OnExit>>>> = PerProcess::new();

/// Registers `rank`: it is notified if it still exists when the program ends, unless a signal, `abort` or `_exit` ends
/// the program.
pub(crate) fn register(rank: Weak<dyn OnExit>) {
    let mut ranks = RANKS.get().lock();
    ranks.retain(|m| m.strong_count() > 0);
    ranks.push(rank);
    drop(ranks);
    // If the handler cannot be registered, or panics, the peers see a sudden death.
    at_exit(end_all);
}

fn end_all() {
    let ranks: Vec<Arc<dyn OnExit>> = RANKS.get().lock().drain(..).filter_map(|m| m.upgrade()).collect();
    let begin = Instant::now();
    while ranks.iter().any(|rank| rank.holds_up(begin.elapsed())) {
        std::thread::sleep(Duration::from_millis(1));
    }
    ranks.iter().for_each(|rank| rank.end());
    // Dropping the references would send a goodbye, as if the ranks had left their groups.
    std::mem::forget(ranks);
}
