//! Tells the peers when the program ends before a rank has left its group.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::{PerProcess, at_exit};
use crate::panics::contain;
use crate::sync::Mutex;

/// How long the end of the program may wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// A rank in its group.
pub(crate) trait LastWord: Send + Sync {
    /// Whether it is still in the group.
    fn is_due(&self) -> bool;

    /// Tells the peers that the rank ended without leaving. Foreign code may run in it and may take long.
    fn say(&self, until: Instant);
}

/// The registered ranks of this process.
static SPEAKERS: PerProcess<Mutex<Vec<Weak<dyn LastWord>>>> = PerProcess::new();

/// Registers `speaker`, which tells the peers if the program ends by `exit`, or by a return of `main` with the group in
/// a `static`.
pub(crate) fn at_end(speaker: Weak<dyn LastWord>) {
    let mut speakers = SPEAKERS.get().lock();
    speakers.retain(|speaker| speaker.strong_count() > 0);
    speakers.push(speaker);
    drop(speakers);
    at_exit(say_all);
}

/// Runs at the end of the program. It waits briefly for the store, which another process may serve, or nobody any more.
fn say_all() {
    let Some(mut speakers) = SPEAKERS.get().try_lock_for(PATIENCE) else { return };
    let due: Vec<_> = speakers.drain(..).filter_map(|s| s.upgrade()).filter(|s| s.is_due()).collect();
    drop(speakers);
    if due.is_empty() {
        return;
    }
    let until = Instant::now() + PATIENCE;
    // It runs on a thread of its own, since a store may wait longer than its deadline.
    let named = std::thread::Builder::new().name("c10d end".into());
    let told = named.spawn(move || due.iter().for_each(|speaker| contain("a store", || speaker.say(until))));
    let Ok(told) = told else { return };
    while !told.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
