//! Heartbeats through the store, by which the ranks of a group without a CPU backend notice that a peer is gone.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::panics::{caught, contain};
use crate::process::{ExitNotice, at_end, spawn};
use crate::sync::{Condvar, Mutex};
use crate::text::harmless;
use crate::{ENDED_WITHOUT_LEAVING, Error, ErrorKind, Store};

/// The time between two heartbeats.
const PERIOD: Duration = Duration::from_secs(1);
/// A rank that sends no heartbeat for this time is considered dead.
const SILENCE: Duration = Duration::from_secs(6);
/// The key of the cause in the store: which rank aborted, died or ended first, and why.
const CAUSE: &str = "cause";
/// The word in a cause for a rank that aborted because it ran out of a resource.
const LACKS: &str = "lacks";
/// The word in a cause for a rank whose program ended while it was in the group.
const ENDED: &str = "ended";
/// The largest length of a cause in an error, in bytes.
const TEXT: usize = 1024;

/// The heartbeats of this rank, and its watch of the next rank.
#[derive(Clone)]
pub struct Heartbeats {
    me: Arc<Member>,
    /// The rank that this rank watches.
    next: u32,
    size: u32,
}

/// This rank, and the store of its group. If the program ends while the rank is in the group, c10d writes an exit
/// notice into the store.
struct Member {
    store: Arc<dyn Store>,
    rank: u32,
    /// Whether the rank left or aborted.
    over: AtomicBool,
    /// Whether a thread still has to write the cause of `abort`.
    writing: Mutex<bool>,
    written: Condvar,
}

impl Member {
    fn writing_ended(&self) {
        *self.writing.lock() = false;
        self.written.notify_all();
    }
}

impl ExitNotice for Member {
    fn is_due(&self) -> bool {
        !self.over.load(Ordering::Acquire)
    }

    fn send(&self, until: Instant) {
        let _ = self.store.set(&ended(self.rank), b"1", until);
    }
}

impl Heartbeats {
    pub(crate) fn new(store: Arc<dyn Store>, rank: u32, size: u32) -> Heartbeats {
        let over = AtomicBool::new(false);
        let me = Arc::new(Member { store, rank, over, writing: Mutex::new(false), written: Condvar::new() });
        let word: Weak<Member> = Arc::downgrade(&me);
        at_end(word);
        Heartbeats { me, next: (rank + 1) % size, size }
    }

    /// Sends heartbeats and reads those of the next rank, until that rank stops sending them or a peer has written a
    /// cause. Then returns the error. Returns `None` if this rank has left or aborted, or if the store does not answer
    /// any more.
    pub(crate) fn watch(&self) -> Option<Error> {
        let mut seen = LastBeat::at(Instant::now());
        loop {
            if let ControlFlow::Break(end) = self.beat(&mut seen, Instant::now()) {
                return end;
            }
            for _ in 0..10 {
                if self.me.over.load(Ordering::Acquire) {
                    return None;
                }
                std::thread::sleep(PERIOD / 10);
            }
        }
    }

    /// Sends one heartbeat and checks the next rank. Returns `Break` with the result of the watch if the watch has
    /// ended.
    fn beat(&self, seen: &mut LastBeat, now: Instant) -> ControlFlow<Option<Error>> {
        let is_long = |since: Instant| now.duration_since(since) > SILENCE;
        let gone = |words| Err(Error::new(ErrorKind::Store, format!("the store panicked: {words}")));
        let look = match caught(|| self.look()).unwrap_or_else(gone) {
            Ok(look) => look,
            // Only the watch ends. The group does not fail, since collectives do not need the store.
            Err(_) if is_long(seen.answered) => return ControlFlow::Break(None),
            Err(_) => {
                // Perhaps the next rank cannot reach the store either, so its silence does not count.
                seen.changed = now;
                return ControlFlow::Continue(());
            }
        };
        seen.answered = now;
        match look {
            Look::Cause(cause) => {
                return ControlFlow::Break((!self.me.over.load(Ordering::Acquire)).then_some(cause));
            }
            Look::Left => seen.changed = now,
            Look::Beat(beat) if beat != seen.beat => (seen.beat, seen.changed) = (beat, now),
            Look::Beat(_) if is_long(seen.changed) => return ControlFlow::Break(Some(self.fell_silent())),
            Look::Beat(_) => {}
        }
        ControlFlow::Continue(())
    }

    fn look(&self) -> crate::Result<Look> {
        let soon = Instant::now() + PERIOD;
        self.me.store.add(&beat(self.me.rank), 1, soon)?;
        if self.me.store.check(&[CAUSE], soon)? {
            return Ok(Look::Cause(parse(&self.me.store.get(CAUSE, soon)?, self.size)));
        }
        if self.me.store.check(&[&left(self.next)], soon)? {
            return Ok(Look::Left);
        }
        Ok(Look::Beat(self.me.store.add(&beat(self.next), 0, soon)?))
    }

    /// Writes the cause for the other ranks, and returns the error: the next rank's heartbeats stopped. If the store
    /// has the exit notice of the next rank, the error says that the program of that rank ended.
    fn fell_silent(&self) -> Error {
        let said = self.me.store.check(&[&ended(self.next)], Instant::now() + PERIOD).unwrap_or(false);
        let (word, how, what) = match said {
            true => (ENDED, ENDED_WITHOUT_LEAVING.to_owned(), "its program ended"),
            false => ("dead", format!("no heartbeat for {SILENCE:?}"), "its heartbeat stopped"),
        };
        self.write_cause(word, self.next, what);
        Error::new(ErrorKind::PeerDead { how }, "noticed through heartbeats in the store").guilty([self.next])
    }

    /// Reports to the peers why this rank aborts. A separate thread writes the cause, since the store may be slow.
    pub(crate) fn abort(&self, cause: &Error) {
        // After this, `leave` does nothing.
        if self.me.over.swap(true, Ordering::AcqRel) {
            return;
        }
        let how = match cause.kind() {
            ErrorKind::Aborted => "aborted",
            ErrorKind::Resource => LACKS,
            _ => "failed",
        };
        let (this, what) = (self.clone(), cause.report().what.clone());
        *self.me.writing.lock() = true;
        let started = spawn("c10d cause", move || {
            contain("a store", || this.write_cause(how, this.me.rank, &what));
            this.me.writing_ended();
        });
        if started.is_err() {
            // The cause is not written, so the peers get an error only at their deadlines.
            self.me.writing_ended();
        }
    }

    /// Waits until the cause of `abort` is in the store, at most a second.
    pub(crate) fn wait_for_abort(&self) {
        let until = Instant::now() + PERIOD;
        let mut writing = self.me.writing.lock();
        while *writing && !self.me.written.wait_until(&mut writing, until).timed_out() {}
    }

    /// Writes a cause into the store, unless another cause was written before.
    fn write_cause(&self, how: &str, rank: u32, what: &str) {
        let (soon, text) = (Instant::now() + PERIOD, format!("{how} {rank} {what}"));
        // If the store does not answer, the peers get an error at their deadlines.
        let _ = self.me.store.compare_set(CAUSE, b"", text.as_bytes(), soon);
    }

    /// Tells the peers that this rank leaves, so that they do not consider it dead.
    pub(crate) fn leave(&self) {
        if !self.me.over.swap(true, Ordering::AcqRel) {
            let _ = self.me.store.set(&left(self.me.rank), b"1", Instant::now() + PERIOD);
        }
    }
}

/// The last heartbeat that a rank has read from the rank that it watches.
struct LastBeat {
    beat: i64,
    /// The time from which the silence of the watched rank counts: the last time at which `beat` changed, the store did
    /// not answer, or the watched rank had left.
    changed: Instant,
    /// The time at which the store last answered.
    answered: Instant,
}

impl LastBeat {
    fn at(now: Instant) -> LastBeat {
        LastBeat { beat: 0, changed: now, answered: now }
    }
}

enum Look {
    Cause(Error),
    Left,
    Beat(i64),
}

fn beat(rank: u32) -> String {
    format!("beat/{rank}")
}

fn left(rank: u32) -> String {
    format!("left/{rank}")
}

fn ended(rank: u32) -> String {
    format!("ended/{rank}")
}

/// Converts a cause in the store to an error. The bytes are not trusted: the error names a rank only if the group has
/// that rank, and the text is made safe to print.
fn parse(bytes: &[u8], size: u32) -> Error {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.splitn(3, ' ');
    let (how, rank, what) = (words.next(), words.next(), words.next().unwrap_or_default());
    let rank = rank.and_then(|r| r.parse::<u32>().ok()).filter(|rank| *rank < size);
    let kind = match how {
        Some("aborted") => ErrorKind::Aborted,
        Some(ENDED) => ErrorKind::PeerDead { how: ENDED_WITHOUT_LEAVING.to_owned() },
        Some("dead") => ErrorKind::PeerDead { how: "no heartbeat".to_owned() },
        Some(LACKS) => ErrorKind::Resource,
        _ => ErrorKind::Device,
    };
    Error::new(kind, harmless(what, TEXT)).guilty(rank)
}

#[cfg(test)]
mod tests {
    use crate::HashStore;

    use super::*;

    fn three() -> [Heartbeats; 3] {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        [0, 1, 2].map(|rank| Heartbeats::new(store.clone(), rank, 3))
    }

    #[test]
    fn the_first_cause_reaches_all() {
        let [a, b, c] = three();
        c.abort(&Error::new(ErrorKind::Aborted, "enough of this"));
        let e = b.watch().unwrap();
        a.write_cause("failed", 0, "too late");
        c.leave();
        let again = b.watch().unwrap();
        assert_eq!(again.report().what, e.report().what);
        assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Aborted, &[2][..]), "{e}");
        assert_eq!(e.report().what, "enough of this");
    }

    #[test]
    fn a_cause_from_the_store_is_limited_and_made_safe() {
        let e = parse(b"failed 1 a\x1b[2J\nb", 3);
        assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Device, &[1][..]));
        assert_eq!(e.report().what, "a\u{fffd}[2J\u{fffd}b");
        assert!(parse(b"failed 3 x", 3).report().guilty.is_empty(), "a rank that the group does not have");
        let e = parse(b"lacks 0 no descriptors", 3);
        assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Resource, &[0][..]));
        assert!(parse(&[0xff; 9999], 3).report().what.len() <= TEXT);
    }

    /// Simulates the watches of these ranks for longer than the time after which a silent rank is noticed. Returns how
    /// each watch ended, or `None` if it did not end. The clock is simulated.
    fn watched<const N: usize>(ranks: [&Heartbeats; N]) -> [Option<Option<Error>>; N] {
        let start = Instant::now();
        let mut watches = ranks.map(|rank| (rank, LastBeat::at(start), None));
        for beat in 0..=SILENCE.as_secs() as u32 + 2 {
            for (rank, seen, end) in watches.iter_mut().filter(|(_, _, end)| end.is_none()) {
                *end = rank.beat(seen, start + beat * PERIOD).break_value();
            }
        }
        watches.map(|(_, _, end)| end)
    }

    #[test]
    fn a_rank_without_a_heartbeat_is_dead_and_one_that_left_is_not() {
        let [a, b, _c] = three();
        // c sends no heartbeats. b watches c, and a watches b.
        for e in watched([&a, &b]).map(|end| end.unwrap().unwrap()) {
            assert!(matches!(e.kind(), ErrorKind::PeerDead { .. }) && e.report().guilty == [2], "{e}");
        }
        let [a, b, _c] = three();
        b.leave();
        assert!(watched([&a])[0].is_none());
        a.leave();
        assert!(a.watch().is_none());
    }

    /// After ten seconds of heartbeats, the store does not answer for five seconds. The watch continues, and the
    /// silence of the next rank counts from zero.
    #[test]
    fn a_store_that_fails_for_a_moment_makes_no_rank_dead() {
        let [a, b, _c] = three();
        let start = Instant::now();
        let mut seen = LastBeat::at(start);
        let soon = || Instant::now() + PERIOD;
        for second in 0..=22 {
            // Rank 1 sends heartbeats only in these seconds.
            if second <= 10 || second == 20 {
                b.me.store.add(&beat(1), 1, soon()).unwrap();
            }
            match second {
                // Every `add` to this value fails.
                11 => a.me.store.set(&beat(0), b"no number", soon()).unwrap(),
                16 => drop(a.me.store.delete(&beat(0), soon()).unwrap()),
                _ => {}
            }
            let end = a.beat(&mut seen, start + second * PERIOD).break_value();
            assert!(end.is_none(), "the watch ended after {second} s: {end:?}");
        }
    }

    #[test]
    fn the_error_says_that_the_program_of_a_rank_ended() {
        let [a, b, c] = three();
        c.me.send(Instant::now() + PERIOD);
        assert!(c.me.is_due());
        for e in watched([&a, &b]).map(|end| end.unwrap().unwrap()) {
            let how = ENDED_WITHOUT_LEAVING.to_owned();
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::PeerDead { how }, &[2][..]), "{e}");
        }
        c.leave();
        assert!(!c.me.is_due());
    }

    #[test]
    fn a_malformed_cause_names_no_rank() {
        for bytes in [&b""[..], b"\xff\xfe", b"dead", b"dead x y", b"aborted 99999999999 z"] {
            assert!(parse(bytes, 3).report().guilty.is_empty());
        }
    }
}
