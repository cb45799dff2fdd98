//! The exit notice of a rank: a message to its peers, sent when the program ends before the rank has left its group.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::{PerProcess, at_exit};
use crate::panics::contain;
use crate::sync::Mutex;

/// The longest time for which [`send_all`] waits for the lock, and then again for the messages.
const PATIENCE: Duration = Duration::from_secs(1);

/// A rank of a group, which can send its peers an exit notice.
pub(crate) trait ExitNotice: Send + Sync {
    /// Returns whether the rank is still in the group, so that it must send an exit notice.
    fn is_due(&self) -> bool;

    /// Tells the peers that the rank ended without leaving. The function may run foreign code (a store), which may
    /// return later than `until`.
    fn send(&self, until: Instant);
}

/// The registered ranks of this process.
static RANKS: PerProcess<Mutex<Vec<Weak<dyn ExitNotice>>>> = PerProcess::new();

/// Registers `rank`, so that it sends its exit notice if the program ends while the rank is still in the group. That
/// happens if the program calls `exit`, or if `main` returns while a `static` holds the group.
pub(crate) fn at_end(rank: Weak<dyn ExitNotice>) {
    let mut ranks = RANKS.get().lock();
    ranks.retain(|rank| rank.strong_count() > 0);
    ranks.push(rank);
    drop(ranks);
    at_exit(send_all);
}

/// Runs at the end of the program, and lets all registered ranks send their exit notices. It waits for at most
/// `PATIENCE` for the lock, and then for at most `PATIENCE` for the messages. Some messages go through a store, which
/// never answers if the process that serves it has ended.
fn send_all() {
    let Some(mut ranks) = RANKS.get().try_lock_for(PATIENCE) else { return };
    let due: Vec<_> = ranks.drain(..).filter_map(|rank| rank.upgrade()).filter(|rank| rank.is_due()).collect();
    drop(ranks);
    if due.is_empty() {
        return;
    }
    let until = Instant::now() + PATIENCE;
    // The messages are sent on a separate thread, since a store may wait longer than its deadline.
    let named = std::thread::Builder::new().name("c10d end".into());
    let sender = named.spawn(move || due.iter().for_each(|rank| contain("a store", || rank.send(until))));
    let Ok(sender) = sender else { return };
    while !sender.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
