//! Reports that say why a group cannot be made. Ranks write them to the store.
//!
//! While a group is made, its ranks are not connected yet. So the first rank that fails writes a report into the store.
//! The other ranks look for this report while they wait, and when they fail themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::store::Store;
use crate::sync::Mutex;
use crate::text::harmless;
use crate::{Error, ErrorKind};

/// The key of the report in the store.
const FAILED: &str = "failed";
/// The key of the counter in the store to which each rank that has failed adds 1.
const OVER: &str = "failed/over";
/// The largest length of a report's text in bytes.
const TEXT: usize = 1024;
/// The largest number of ranks that a report names.
const GUILTY: usize = 1024;
/// The first and the longest interval between two reads of the report.
const LOOKS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// How long the store may take to answer a request of a rank that has failed.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a rank waits for another rank's report, if its own failure may be a consequence of that rank's failure. The
/// rank that wrote the report waits at most as long for the other ranks to read it.
const WORD: Duration = Duration::from_secs(1);

/// The reports of one group that is being made.
pub struct Reports {
    /// `None` if there is no other rank, or the other ranks do not read reports.
    store: Option<Arc<dyn Store>>,
    rank: u32,
    size: u32,
    /// The time of the next read of the report, and the interval after that read.
    next: Mutex<(Instant, Duration)>,
    /// Whether this rank has failed and called `settle`, which reports only the first error.
    settled: AtomicBool,
}

#[derive(Clone, Debug, PartialEq)]
struct FailureReport {
    by: u32,
    kind: ErrorKind,
    guilty: Vec<u32>,
    what: String,
}

impl Reports {
    /// Opens the reports of a group in this part of the store.
    pub fn new(store: Arc<dyn Store>, rank: u32, size: u32) -> Reports {
        let store = if size > 1 { Some(store) } else { None };
        Reports {
            store,
            rank,
            size,
            next: Mutex::new((Instant::now() + LOOKS.0, LOOKS.0)),
            settled: AtomicBool::new(false),
        }
    }

    /// Makes a value that neither writes nor reads reports, for a group whose other ranks do not use reports.
    pub(crate) fn none() -> Reports {
        Reports {
            store: None,
            rank: 0,
            size: 1,
            next: Mutex::new((Instant::now(), LOOKS.0)),
            settled: AtomicBool::new(false),
        }
    }

    /// Returns the failure that another rank has reported, if there is one. `failure` may be called often: it reads the
    /// store at most once per interval, and returns `None` in between.
    pub fn failure(&self) -> Option<Error> {
        self.failure_at(Instant::now())
    }

    fn failure_at(&self, now: Instant) -> Option<Error> {
        let store = self.store.as_ref()?;
        {
            let mut next = self.next.try_lock()?;
            if now < next.0 {
                return None;
            }
            let pause = (next.1 * 2).min(LOOKS.1);
            *next = (now + next.1, pause);
        }
        self.read(&**store).map(|report| report.seen_from(self.rank))
    }

    /// Reports to the other ranks that this rank cannot make the group. Returns the error for the caller: `error`, or
    /// the error of another rank if `error` may be only a consequence of that error. If this rank has already reported
    /// an error, the result is `error`.
    pub fn settle(&self, error: Error) -> Error {
        let Some(store) = self.store.as_ref().filter(|_| !self.settled.swap(true, Ordering::Relaxed)) else {
            return error;
        };
        let store = &**store;
        let mine = FailureReport::of(self.rank, &error);
        let until = || Instant::now() + ANSWER;
        let Ok(mut stored) = store.compare_set(FAILED, &[], &mine.to_bytes(), until()) else { return error };
        if !is_consequence(&error) {
            // Another rank may already have reported a consequence of this error. This error then replaces that report.
            while FailureReport::parse(&stored, self.size)
                .is_none_or(|theirs| theirs.by != self.rank && theirs.is_weak())
            {
                match store.compare_set(FAILED, &stored, &mine.to_bytes(), until()) {
                    Ok(now) if now != stored => stored = now,
                    _ => break,
                }
            }
            self.stay(store);
            return error;
        }
        let end = Instant::now() + WORD;
        let mut theirs = self.read(store);
        while theirs.as_ref().is_none_or(FailureReport::is_weak) && Instant::now() < end {
            std::thread::sleep(WORD / 20);
            theirs = self.read(store).or(theirs);
        }
        let _ = store.add(OVER, 1, until());
        match theirs {
            Some(theirs) if !theirs.is_weak() || *error.kind() == ErrorKind::Rendezvous => theirs.seen_from(self.rank),
            _ => error,
        }
    }

    /// Waits until all ranks have failed, but at most `WORD`. This process may serve the store, so it must not end
    /// before the other ranks have failed and read the report.
    fn stay(&self, store: &dyn Store) {
        let end = Instant::now() + WORD;
        let mut over = store.add(OVER, 1, Instant::now() + ANSWER);
        while over.as_ref().is_ok_and(|over| *over < i64::from(self.size)) && Instant::now() < end {
            std::thread::sleep(WORD / 20);
            over = store.add(OVER, 0, Instant::now() + ANSWER);
        }
    }

    /// Reads the report of another rank.
    fn read(&self, store: &dyn Store) -> Option<FailureReport> {
        let until = Instant::now() + ANSWER;
        if !store.check(&[FAILED], until).ok()? {
            return None;
        }
        let report = FailureReport::parse(&store.get(FAILED, until).ok()?, self.size);
        report.filter(|report| report.by != self.rank)
    }
}

/// Returns whether the error may be the consequence of another rank's failure.
fn is_consequence(error: &Error) -> bool {
    use ErrorKind::{PeerDead, Rendezvous, Store, Timeout};
    matches!(error.kind(), Rendezvous | Timeout | Store | PeerDead { .. })
}

impl FailureReport {
    fn of(by: u32, error: &Error) -> FailureReport {
        let report = error.report();
        let mut what = report.what.clone();
        if let ErrorKind::PeerDead { how } = &report.kind {
            what = if what.is_empty() { how.clone() } else { format!("{how}: {what}") };
        }
        let guilty = report.guilty.iter().copied().take(GUILTY).collect();
        FailureReport { by, kind: report.kind.clone(), guilty, what: harmless(&what, TEXT) }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let guilty: Vec<String> = self.guilty.iter().map(u32::to_string).collect();
        format!("{}:{}:{}:{}", self.by, self.kind.name(), guilty.join(","), self.what).into_bytes()
    }

    /// Reads the report of a rank of a group of `size`; `None` if the bytes are not a report.
    fn parse(bytes: &[u8], size: u32) -> Option<FailureReport> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(4, ':');
        let by: u32 = parts.next()?.parse().ok().filter(|by| *by < size)?;
        let kind = parts.next()?;
        let guilty = parts.next()?;
        let guilty: Vec<u32> = match guilty {
            "" => Vec::new(),
            list => list.split(',').map(|rank| rank.parse().ok().filter(|rank| *rank < size)).collect::<Option<_>>()?,
        };
        if guilty.len() > GUILTY {
            return None;
        }
        let what = harmless(parts.next()?, TEXT);
        let kind = match kind {
            "PeerDead" => ErrorKind::PeerDead { how: what.clone() },
            // A report does not contain the fields of a mismatch, so it cannot become a mismatch again.
            "Mismatch" => ErrorKind::Rendezvous,
            kind => ErrorKind::PLAIN.iter().find(|k| k.name() == kind)?.clone(),
        };
        Some(FailureReport { by, kind, guilty, what })
    }

    /// Returns whether the reported error may itself be the consequence of another rank's failure.
    fn is_weak(&self) -> bool {
        is_consequence(&Error::new(self.kind.clone(), ""))
    }

    /// Converts the report to the error of rank `me`. The error names other ranks, but never `me`.
    fn seen_from(self, me: u32) -> Error {
        let FailureReport { by, kind, mut guilty, what } = self;
        guilty.retain(|rank| *rank != me);
        if guilty.is_empty() {
            guilty.push(by);
        }
        let dead = matches!(kind, ErrorKind::PeerDead { .. });
        let told = if what.starts_with("reported by rank ") { what } else { format!("reported by rank {by}: {what}") };
        let mut error = Error::new(kind, if dead { format!("reported by rank {by}") } else { told }).guilty(guilty);
        error.report_mut().status = crate::Status::Failed;
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashStore;

    fn all(size: u32) -> Vec<Reports> {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        (0..size).map(|rank| Reports::new(store.clone(), rank, size)).collect()
    }

    fn lost(rank: u32) -> Error {
        Error::new(ErrorKind::Rendezvous, "it closed the connection").guilty([rank])
    }

    fn out() -> Error {
        Error::new(ErrorKind::Rendezvous, "no").guilty([0]).caused_by(std::io::Error::from_raw_os_error(libc::EMFILE))
    }

    #[test]
    fn all_ranks_get_the_cause_whichever_rank_fails_first() {
        let reports = all(3);
        assert!(reports[0].failure().is_none());
        let errors = std::thread::scope(|s| {
            // Each rank fails after the previous rank has written its report.
            let fail = |rank: usize, error: Error| {
                let reports = &reports;
                let thread = s.spawn(move || reports[rank].settle(error));
                let (begun, by) = (Instant::now(), [0, 1, 1][rank]);
                while reports[2].read(&**reports[2].store.as_ref().unwrap()).is_none_or(|report| report.by != by) {
                    assert!(begun.elapsed() < Duration::from_secs(30), "rank {by} does not report");
                    std::thread::yield_now();
                }
                thread
            };
            [fail(0, lost(1)), fail(1, out()), fail(2, lost(1))].map(|t| t.join().unwrap())
        });
        for (rank, error) in errors.iter().enumerate() {
            assert_eq!(*error.kind(), ErrorKind::Resource, "rank {rank}: {error}");
            assert!(error.to_string().contains("ulimit -n"), "rank {rank}: {error}");
            assert_eq!(error.report().guilty, if rank == 1 { vec![] } else { vec![1] }, "rank {rank}: {error}");
        }
        assert!(errors[2].to_string().contains("reported by rank 1"), "{}", errors[2]);
        let next = Instant::now() + LOOKS.0;
        assert_eq!(*reports[0].failure_at(next).unwrap().kind(), ErrorKind::Resource);
        assert!(reports[0].failure_at(next).is_none(), "one read per interval");
    }

    #[test]
    fn invalid_reports_are_ignored_and_texts_are_limited() {
        let parse = |text: &str| FailureReport::parse(text.as_bytes(), 3);
        let good = FailureReport { by: 2, kind: ErrorKind::Resource, guilty: vec![0, 1], what: "none left: é".into() };
        assert_eq!(FailureReport::parse(&good.to_bytes(), 3), Some(good));
        for bad in
            ["", "3:Resource::x", "-1:Resource::x", "1:Nothing::x", "1:Resource:3:x", "1:Resource:0,:x", "1:Resource:0"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("1:Resource::a\x1b[2J\nb").unwrap().what, "a\u{fffd}[2J\u{fffd}b");
        assert!(parse(&format!("1:Resource::{}", "x".repeat(9999))).unwrap().what.len() <= TEXT);
        let dead = parse("1:PeerDead:2:gone").unwrap().seen_from(2);
        assert_eq!((dead.kind(), &dead.report().guilty[..]), (&ErrorKind::PeerDead { how: "gone".into() }, &[1][..]));
    }
}
