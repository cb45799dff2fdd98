//! The call log: this rank's latest calls, and whether it is inside a call, for other ranks to read.
//!
//! The thread that runs an op writes the call log, and the watcher (`mesh::watch`) reads it. If the rank has a segment,
//! the call log is in the segment, and the ranks that share memory with this rank read it as well. Neither readers nor
//! the writer wait. A reader that finds an entry being written tries again a few times, then treats the entry as gone.
//! A reader accepts any contents, since a peer may write anything to its segment.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use c10d_core::backend::Fingerprint;
use c10d_core::calls::CallId;

/// The number of calls that a call log remembers.
pub(crate) const HISTORY: usize = 64;

/// The bits of a digest that are the number of the call.
const NUMBER: u64 = 0xffff;

#[derive(Default)]
#[repr(C)]
struct Entry {
    /// The version is odd while a thread writes the entry.
    version: AtomicU64,
    words: [AtomicU64; 3],
}

/// The call log of one rank in one group. Calls are numbered from 0 in the order in which they began. If all ranks make
/// the same calls, a call has the same number on all ranks.
#[repr(C, align(128))]
pub(crate) struct CallLog {
    entries: [Entry; HISTORY],
    /// For each remembered call, a hash of this call and of all calls before it. The lowest 16 bits are the call's
    /// number. If two ranks have the same digest for a call, they have made the same calls up to this one.
    digests: [AtomicU64; HISTORY],
    begun: AtomicU64,
    /// The number of calls that had begun when the last call ended.
    ended: AtomicU64,
    failed: Flag,
}

/// A flag that is written once, in a cache line of its own.
#[repr(C, align(128))]
struct Flag(AtomicU64);

/// What a call log contains for the call with a given number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    NotYet,
    Call(Fingerprint),
    /// The call began too long ago to be remembered.
    Gone,
}

/// The position of a rank in its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last call that the rank began, if there is one.
    pub(crate) last: Option<CallId>,
    /// Whether the rank is still inside that call.
    pub(crate) inside: bool,
}

impl Position {
    /// Whether the rank has not begun the call `place` yet.
    pub(crate) fn is_before(&self, place: CallId) -> bool {
        self.last.is_none_or(|last| last.is_before(place))
    }
}

impl CallLog {
    pub(crate) fn new() -> CallLog {
        CallLog {
            entries: std::array::from_fn(|_| Entry::default()),
            digests: std::array::from_fn(|_| AtomicU64::new(0)),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: Flag(AtomicU64::new(0)),
        }
    }

    /// Records that a call begins. Only one call runs at a time.
    #[inline]
    pub(crate) fn begin(&self, fingerprint: &Fingerprint) {
        let n = self.begun.load(Ordering::Relaxed);
        let entry = &self.entries[n as usize % HISTORY];
        let version = written(n);
        entry.version.store(version.wrapping_sub(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let words = fingerprint.to_words();
        for (word, value) in entry.words.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        entry.version.store(version, Ordering::Release);
        let before = self.digest(n.wrapping_sub(1)).load(Ordering::Relaxed);
        self.digest(n).store(digest(before, &words, n), Ordering::Release);
        self.begun.store(n.wrapping_add(1), Ordering::Release);
    }

    /// Returns the digest of call `n`, if the call is remembered.
    #[inline]
    fn digest(&self, n: u64) -> &AtomicU64 {
        &self.digests[n as usize % HISTORY]
    }

    /// Whether both ranks made the same calls up to call `n`, which this log remembers. `None` if the other rank has
    /// not made call `n` yet. `false` also if the other log does not remember call `n` any more.
    #[inline]
    pub(crate) fn agrees(&self, other: &CallLog, n: u64) -> Option<bool> {
        let (own, theirs) = (self.digest(n).load(Ordering::Relaxed), other.digest(n).load(Ordering::Acquire));
        let missing = own.wrapping_sub(theirs) & NUMBER == HISTORY as u64 || theirs == 0;
        (!missing).then_some(own == theirs)
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.ended.store(self.begun.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Records that the group has failed on this rank, and that all ranks were sent the cause.
    pub(crate) fn give_up(&self) {
        self.failed.0.store(1, Ordering::Release);
    }

    /// Whether the group has failed on this rank.
    #[inline]
    pub(crate) fn has_given_up(&self) -> bool {
        self.failed.0.load(Ordering::Acquire) != 0
    }

    /// Returns the fingerprint of the call `place`, if it is remembered.
    pub(crate) fn find(&self, place: CallId) -> Option<Fingerprint> {
        let begun = self.begun.load(Ordering::Acquire);
        (begun.saturating_sub(HISTORY as u64)..begun)
            .rev()
            .find_map(|n| self.read(n).filter(|p| CallId::of(p) == place))
    }

    /// Returns the position of the rank whose call log this is.
    pub(crate) fn position(&self) -> Position {
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        let last = begun.checked_sub(1).and_then(|n| self.read(n)).map(|p| CallId::of(&p));
        Position { last, inside: begun != ended }
    }

    /// Returns the fingerprint of the call that was begun last.
    pub(crate) fn last(&self) -> Option<Fingerprint> {
        self.begun().checked_sub(1).and_then(|n| self.read(n))
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns how many calls have ended, with or without success.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Returns the last call that ended, with or without success.
    pub(crate) fn last_ended(&self) -> Option<CallId> {
        let n = self.ended.load(Ordering::Acquire).checked_sub(1)?;
        self.read(n).map(|p| CallId::of(&p))
    }

    #[inline]
    pub(crate) fn entry(&self, n: u64) -> Entered {
        let when = written(n);
        match self.look(n) {
            Some((version, fingerprint)) if version == when => Entered::Call(fingerprint),
            Some((version, _)) if version > when => Entered::Gone,
            None if self.begun() > n => Entered::Gone,
            _ => Entered::NotYet,
        }
    }

    /// Returns the remembered calls, from number `from` on.
    pub(crate) fn since(&self, from: u64) -> impl Iterator<Item = (u64, Fingerprint)> {
        let begun = self.begun();
        let window = begun.saturating_sub(HISTORY as u64)..begun;
        window.filter(move |n| *n >= from).filter_map(|n| match self.entry(n) {
            Entered::Call(fingerprint) => Some((n, fingerprint)),
            _ => None,
        })
    }

    fn read(&self, n: u64) -> Option<Fingerprint> {
        self.look(n).map(|(_, fingerprint)| fingerprint)
    }

    /// Reads the entry for call `n`, which may contain an earlier or a later call. Returns the entry's version and
    /// contents, or `None` while a thread writes the entry.
    #[inline]
    fn look(&self, n: u64) -> Option<(u64, Fingerprint)> {
        let entry = &self.entries[n as usize % HISTORY];
        (0..8).find_map(|_| {
            let before = entry.version.load(Ordering::Acquire);
            let words: [u64; 3] = std::array::from_fn(|i| entry.words[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let after = entry.version.load(Ordering::Relaxed);
            (before == after && before.is_multiple_of(2)).then(|| (before, unpack(&words)))
        })
    }
}

/// Returns the digest of call `n`, whose fingerprint consists of these words. `before` is the digest of the call before
/// it.
#[inline]
fn digest(before: u64, words: &[u64; 3], n: u64) -> u64 {
    let mix = |hash: u64, word: &u64| {
        let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ product >> 32
    };
    words.iter().fold(before & !NUMBER, mix) & !NUMBER | n & NUMBER
}

/// Returns the version of an entry that contains call `n`. An odd version means that a thread writes the entry.
fn written(n: u64) -> u64 {
    (n / HISTORY as u64).wrapping_add(1).wrapping_mul(2)
}

fn unpack(words: &[u64; 3]) -> Fingerprint {
    let mut bytes = [0; Fingerprint::SIZE];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    Fingerprint::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(seq: u32) -> Fingerprint {
        Fingerprint { seq, op: 5, dtype: 10, reduce: 0, step: 0, count: u64::from(seq) * 3, root: seq, rest: seq }
    }

    #[test]
    fn the_last_64_calls_are_remembered() {
        let call_log = CallLog::new();
        assert_eq!(call_log.position(), Position { last: None, inside: false });
        for seq in 0..100 {
            call_log.begin(&fingerprint(seq));
            assert_eq!(call_log.position(), Position { last: Some(CallId { seq, step: 0 }), inside: true });
            call_log.end();
        }
        assert!(!call_log.position().inside);
        assert_eq!(call_log.last_ended(), Some(CallId { seq: 99, step: 0 }));
        for seq in 0..101 {
            let expected = (36..100).contains(&seq).then(|| fingerprint(seq));
            assert_eq!(call_log.find(CallId { seq, step: 0 }), expected, "{seq}");
            let entered = match seq {
                ..36 => Entered::Gone,
                36..100 => Entered::Call(fingerprint(seq)),
                _ => Entered::NotYet,
            };
            assert_eq!(call_log.entry(seq.into()), entered, "{seq}");
        }
        assert_eq!(call_log.since(0).map(|(n, _)| n).collect::<Vec<_>>(), (36..100).collect::<Vec<_>>());
        assert_eq!(call_log.since(98).last(), Some((99, fingerprint(99))));
    }

    #[test]
    fn logs_agree_up_to_the_first_different_call() {
        let (a, b) = (CallLog::new(), CallLog::new());
        for seq in 0..100 {
            a.begin(&fingerprint(seq));
            assert_eq!(a.agrees(&b, seq.into()), None, "the other log does not have the call {seq} yet");
            b.begin(&fingerprint(seq));
            assert_eq!((a.agrees(&b, seq.into()), b.agrees(&a, seq.into())), (Some(true), Some(true)));
        }
        a.begin(&fingerprint(100));
        b.begin(&Fingerprint { root: 1, ..fingerprint(100) });
        assert_eq!(a.agrees(&b, 99), Some(true));
        for seq in 101..300 {
            a.begin(&fingerprint(seq));
            b.begin(&fingerprint(seq));
            assert_eq!(a.agrees(&b, seq.into()), Some(false), "{seq}");
        }
    }

    #[test]
    fn any_contents_of_a_call_log_can_be_read() {
        let call_log = CallLog::new();
        for begun in [0, 1, 63, 64, u64::MAX - 1, u64::MAX] {
            call_log.begun.store(begun, Ordering::Relaxed);
            for version in [0, 1, 2, 3, u64::MAX - 1, u64::MAX] {
                call_log.entries.iter().for_each(|e| e.version.store(version, Ordering::Relaxed));
                for n in [0, 1, 64, u64::MAX] {
                    let _ = (
                        call_log.entry(n),
                        call_log.since(n).count(),
                        call_log.find(CallId { seq: n as u32, step: 0 }),
                    );
                }
                let _ = (call_log.position(), call_log.last_ended());
            }
            call_log.begin(&fingerprint(7));
            call_log.end();
        }
    }

    #[test]
    fn readers_never_see_half_an_entry() {
        let call_log = CallLog::new();
        std::thread::scope(|s| {
            s.spawn(|| (0..200_000).for_each(|seq| call_log.begin(&fingerprint(seq))));
            s.spawn(|| {
                let mut last = 0;
                while last < 199_999 {
                    if let Some(place) = call_log.position().last {
                        assert!(call_log.find(place).is_none_or(|p| p == fingerprint(place.seq)));
                        last = place.seq;
                    }
                }
            });
        });
    }
}
