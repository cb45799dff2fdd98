//! Reports of long waits: if an op waits for longer than a set time, the rank reports this on stderr and through
//! [`tracing`], as a warning with target `c10d`.
//!
//! The hint `warn-after` of a group, or else the variable `C10D_WARN_AFTER`, sets this time in seconds (10 unless set;
//! `0` means never). A rank reports the ops of one group at most once a minute. While a group is made, a rank finds out
//! at intervals of this time which ranks are missing. The rank reports these ranks if they differ from those in its
//! last report, or if that report is a minute old. Separate threads write the lines, so a blocked stderr delays no
//! waiting thread.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::panics::{caught, contain};
use crate::process::PerProcess;
use crate::{Error, Result};

/// The hint that sets the time after which a wait is reported.
pub const HINT: &str = "warn-after";
/// The variable that sets the time if no hint does.
pub const VARIABLE: &str = "C10D_WARN_AFTER";

const USUAL: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// The interval in which the ops of one rank, or the same missing ranks, are reported at most once.
const MINUTE: Duration = Duration::from_secs(60);
/// The largest number of lines that one process writes per minute.
const LINES: usize = 20;
/// The largest number of threads that write a line at once; further lines are lost. A write to stderr may block, for
/// example on a pipe that no process reads.
const UNDERWAY: usize = 4;
/// The largest length of a line in bytes.
const LENGTH: usize = 2000;

/// Returns the time after which a wait is reported, or `None` if waits are never reported. `hint` is the value of the
/// group's hint, if set.
///
/// # Errors
/// `InvalidArgument` if the value of the hint or variable is not a number of seconds.
pub fn after(hint: Option<&str>) -> Result<Option<Duration>> {
    let (name, text) = match (hint, std::env::var(VARIABLE)) {
        (Some(text), _) => (HINT, text.to_owned()),
        (None, Ok(text)) => (VARIABLE, text),
        (None, Err(_)) => return Ok(Some(USUAL)),
    };
    let seconds = text.trim().parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    match seconds {
        Some(after) => Ok(Some(after.min(LONGEST)).filter(|after| !after.is_zero())),
        None => Err(Error::invalid(format!("{name} is {text:?}; it must be a number of seconds, 0 for never"))),
    }
}

#[derive(Default)]
struct Said {
    of: Mutex<Times>,
    /// The number of threads that write a line now. A new one is started only if it is less than [`UNDERWAY`].
    underway: AtomicUsize,
}

/// The times of the reports in the last minute: of each rank's report of an op, and of all lines of the process.
#[derive(Default)]
struct Times {
    ranks: HashMap<(String, u32), Instant>,
    lines: VecDeque<Instant>,
}

static SAID: PerProcess<Said> = PerProcess::new();

/// Reports that an op of this rank of this group waits, unless the rank made such a report less than a minute ago, or
/// the process has written 20 lines in the last minute. The line begins with `rank 3 of group "g"`. `text` is called on
/// a separate thread, may take long, and returns the rest of the line.
pub fn say(group: &str, rank: u32, text: impl FnOnce() -> String + Send + 'static) {
    let said = SAID.get();
    {
        let mut of = said.of.lock();
        let now = Instant::now();
        of.ranks.retain(|_, at| now.duration_since(*at) < MINUTE);
        let key = (group.to_owned(), rank);
        if of.ranks.contains_key(&key) || !may_speak(&mut of.lines, now) {
            return;
        }
        of.ranks.insert(key, now);
    }
    let who = format!("rank {rank} of group {group:?} ");
    write(said, move || who + &text());
}

/// Returns whether the process may write one more line, and if so, counts the line.
fn may_speak(lines: &mut VecDeque<Instant>, now: Instant) -> bool {
    while lines.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
        lines.pop_front();
    }
    let may = lines.len() < LINES;
    if may {
        lines.push_back(now);
    }
    may
}

fn write(said: &'static Said, text: impl FnOnce() -> String + Send + 'static) {
    if said.underway.fetch_add(1, Ordering::Relaxed) >= UNDERWAY {
        said.underway.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let tell = move || {
        if let Ok(line) = caught(text) {
            let line = bounded(line);
            contain("a tracing subscriber", || tracing::warn!(target: "c10d", "{line}"));
            // A closed stderr is no reason to panic.
            let _ = writeln!(std::io::stderr(), "c10d: {line}");
        }
        said.underway.fetch_sub(1, Ordering::Relaxed);
    };
    // The new thread uses the subscriber of the waiting thread.
    let subscriber = tracing::dispatcher::get_default(Clone::clone);
    let thread = std::thread::Builder::new().name("c10d-warn".into()).stack_size(256 << 10);
    let spawned = thread.spawn(move || tracing::dispatcher::with_default(&subscriber, tell));
    if spawned.is_err() {
        said.underway.fetch_sub(1, Ordering::Relaxed);
    }
}

fn bounded(line: String) -> String {
    let mut line = line.replace(['\n', '\r'], " ");
    while line.len() > LENGTH {
        line.pop();
    }
    line
}

/// Reports at intervals what a polling thread waits for: missing ranks, or a store that does not answer.
pub struct Reminder {
    every: Option<Duration>,
    began: Instant,
    /// The time at which the next report is due.
    next: Instant,
    /// The last report: its text and its time.
    last: Option<(String, Instant)>,
}

impl Reminder {
    /// Makes a reminder for a wait that begins now. With `None` it never reports.
    pub fn new(every: Option<Duration>) -> Reminder {
        let began = Instant::now();
        Reminder { every, began, next: began + every.unwrap_or(LONGEST), last: None }
    }

    /// Returns the time until which the caller may wait before it calls `is_due` again, at most `deadline`.
    pub fn until(&self, deadline: Instant) -> Instant {
        self.next.min(deadline)
    }

    /// Returns whether a report is due: `true` once per interval.
    pub fn is_due(&mut self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&mut self, now: Instant) -> bool {
        let due = self.every.is_some() && now >= self.next;
        if due {
            self.next = now + self.every.unwrap_or(LONGEST);
        }
        due
    }

    /// Reports the text, unless the last report had the same text less than a minute ago, or the process has written 20
    /// lines in the last minute.
    pub fn say(&mut self, text: &str) {
        let now = Instant::now();
        if self.last.as_ref().is_some_and(|(last, at)| last == text && now.duration_since(*at) < MINUTE) {
            return;
        }
        self.last = Some((text.to_owned(), now));
        let said = SAID.get();
        if may_speak(&mut said.of.lock().lines, now) {
            let line = format!("{text} (for {:.1} s so far)", self.began.elapsed().as_secs_f64());
            write(said, move || line);
        }
    }
}

/// Returns `rank 3` or `ranks 3, 4`. Of a longer list it names the first 8 ranks and the number of the others.
pub fn ranks(list: &[u32]) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = list.iter().take(SHOWN).map(u32::to_string).collect();
    let word = if list.len() == 1 { "rank" } else { "ranks" };
    let more = if list.len() > SHOWN { format!(" and {} more", list.len() - SHOWN) } else { String::new() };
    format!("{word} {}{more}", names.join(", "))
}

/// Returns the same text as [`ranks`] with a verb: `rank 3 is`, `ranks 3, 4 are`.
pub fn ranks_are(list: &[u32]) -> String {
    format!("{} {}", ranks(list), if list.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warn_after_is_a_number_of_seconds() {
        assert_eq!(after(Some("2.5")).unwrap(), Some(Duration::from_millis(2500)));
        assert_eq!(after(Some("0")).unwrap(), None);
        for bad in ["-1", "soon", "nan", ""] {
            assert!(after(Some(bad)).unwrap_err().to_string().contains("warn-after is"), "{bad}");
        }
    }

    #[test]
    fn lines_are_limited_per_rank_and_per_process() {
        let (tell, told) = std::sync::mpsc::channel();
        let say = |rank| {
            let tell = tell.clone();
            say("a group of this test", rank, move || {
                let _ = tell.send(rank);
                String::new()
            });
        };
        (0..1000).for_each(|_| say(7));
        drop(tell);
        // The channel is disconnected when all calls of `say` have either reported or been ignored.
        let next = || told.recv_timeout(Duration::from_secs(20));
        assert_eq!([next(), next()], [Ok(7), Err(std::sync::mpsc::RecvTimeoutError::Disconnected)]);
        let mut lines = VecDeque::new();
        let now = Instant::now();
        assert_eq!((0..1000).filter(|_| may_speak(&mut lines, now)).count(), LINES);
        assert!(may_speak(&mut lines, now + MINUTE));
    }

    #[test]
    fn a_panic_of_the_text_is_contained_and_a_long_text_is_cut() {
        say("another group of this test", 1, || panic!("this test's"));
        assert_eq!(bounded("é\n".repeat(5000)).len(), LENGTH);
    }

    #[test]
    fn missing_ranks_are_reported_again_when_they_change() {
        let mut reminder = Reminder::new(Some(MINUTE));
        let due = reminder.began + MINUTE;
        let found =
            [due - Duration::from_nanos(1), due, due + MINUTE / 2, due + MINUTE].map(|at| reminder.is_due_at(at));
        assert_eq!(found, [false, true, false, true]);
        reminder.say("rank 1 is missing");
        let first = reminder.last.clone();
        reminder.say("rank 1 is missing");
        assert_eq!(reminder.last, first);
        reminder.say("rank 2 is missing");
        assert_ne!(reminder.last, first);
        let mut never = Reminder::new(None);
        assert!(!never.is_due() && never.until(never.began) == never.began);
    }
}
