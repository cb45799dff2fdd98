//! The last word of a rank: a message to its peers, sent when the program ends before the rank has left its group.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::{PerProcess, at_exit};
use crate::panics::contain;
use crate::sync::Mutex;

/// The longest time for which the end of the program waits for the lock, and then again for the messages.
const PATIENCE: Duration = Duration::from_secs(1);

/// A rank of a group, which can send its peers a last word.
pub(crate) trait LastWord: Send + Sync {
    /// Returns whether the rank is still in the group, so that it must send a last word.
    fn is_due(&self) -> bool;

    /// Tells the peers that the rank ended without leaving. This may run foreign code (a store), which may return later
    /// than `until`.
    fn say(&self, until: Instant);
}

/// The registered ranks of this process.
static SPEAKERS: PerProcess<Mutex<Vec<Weak<dyn LastWord>>>> = PerProcess::new();

/// Registers `speaker`, so that it sends its last word if the program ends while the rank is still in the group: by
/// `exit`, or by a return of `main` while a `static` holds the group.
pub(crate) fn at_end(speaker: Weak<dyn LastWord>) {
    let mut speakers = SPEAKERS.get().lock();
    speakers.retain(|speaker| speaker.strong_count() > 0);
    speakers.push(speaker);
    drop(speakers);
    at_exit(say_all);
}

/// Runs at the end of the program, and lets all registered ranks send their last words. It waits for at most `PATIENCE`
/// for the lock, and then for at most `PATIENCE` for the messages, since the store may be served by a process that has
/// ended.
fn say_all() {
    let Some(mut speakers) = SPEAKERS.get().try_lock_for(PATIENCE) else { return };
    let due: Vec<_> = speakers.drain(..).filter_map(|s| s.upgrade()).filter(|s| s.is_due()).collect();
    drop(speakers);
    if due.is_empty() {
        return;
    }
    let until = Instant::now() + PATIENCE;
    // The messages are sent on a separate thread, since a store may wait longer than its deadline.
    let named = std::thread::Builder::new().name("c10d end".into());
    let told = named.spawn(move || due.iter().for_each(|speaker| contain("a store", || speaker.say(until))));
    let Ok(told) = told else { return };
    while !told.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
