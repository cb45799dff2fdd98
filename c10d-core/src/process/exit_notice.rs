//! The exit notice of a rank: a message to its peers, sent when the program ends before the rank has left its group.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::{PerProcess, at_exit};
use crate::panics::contain;
use crate::sync::Mutex;

/// The limit on each of the two waits of [`send_all`]: for the lock, and for the messages.
const PATIENCE: Duration = Duration::from_secs(1);

/// A rank of a group, which can send its peers an exit notice.
pub(crate) trait ExitNotice: Send + Sync {
    /// Returns whether the rank is still in the group.
    fn is_due(&self) -> bool;

    /// Tells the peers that the rank ended without leaving. The function may return later than `until` if a store does
    /// not keep to its deadline.
    fn send(&self, until: Instant);
}

static RANKS: PerProcess<Mutex<Vec<Weak<dyn ExitNotice>>>> = PerProcess::new();

/// Registers `rank`: it sends its exit notice if the program ends while the rank is in the group (the program calls
/// `exit`, or `main` returns while a `static` holds the group).
pub(crate) fn at_end(rank: Weak<dyn ExitNotice>) {
    let mut ranks = RANKS.get().lock();
    ranks.retain(|rank| rank.strong_count() > 0);
    ranks.push(rank);
    drop(ranks);
    at_exit(send_all);
}

/// Lets all registered ranks send their exit notices at the end of the program. A store whose process has ended never
/// answers, so `PATIENCE` limits the wait.
fn send_all() {
    let Some(mut ranks) = RANKS.get().try_lock_for(PATIENCE) else { return };
    let due: Vec<_> = ranks.drain(..).filter_map(|rank| rank.upgrade()).filter(|rank| rank.is_due()).collect();
    drop(ranks);
    if due.is_empty() {
        return;
    }
    let until = Instant::now() + PATIENCE;
    // A separate thread sends the messages, since a store may wait longer than its deadline.
    let named = std::thread::Builder::new().name("c10d end".into());
    let sender = named.spawn(move || due.iter().for_each(|rank| contain("a store", || rank.send(until))));
    let Ok(sender) = sender else { return };
    while !sender.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
