//! Reports of long waits: an op that waits long reports it on stderr and through [`tracing`], as a warning with target
//! `c10d`.
//!
//! The hint `warn-after` of a group, or else the variable `C10D_WARN_AFTER`, sets the time in seconds; it is 10 unless
//! set, and `0` means never. A rank reports the ops of one group at most once a minute; while a group is made, it
//! reports missing ranks whenever they change. A thread of its own finds out the text and writes the lines, so no
//! waiting thread is delayed, and no lock is held.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::panics::{caught, contain};
use crate::process::PerProcess;
use crate::{Error, Result};

/// The hint that sets the time.
pub const HINT: &str = "warn-after";
/// The variable that sets the time if no hint does.
pub const VARIABLE: &str = "C10D_WARN_AFTER";

const USUAL: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// The interval in which nothing is reported twice.
const MINUTE: Duration = Duration::from_secs(60);
/// The largest number of lines of one process per minute.
const LINES: usize = 20;
/// The largest number of lines being written at once, since stderr may be a pipe that nobody reads.
const UNDERWAY: usize = 4;
/// The largest number of bytes of a line.
const LENGTH: usize = 2000;

/// The time after which a wait is reported; `None`: never. `hint` is the value of the hint, if there is one.
///
/// # Errors
/// `InvalidArgument` where the value is no number of seconds.
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
    underway: AtomicUsize,
}

/// The times of the last reports: for each rank of a group, and in total.
#[derive(Default)]
struct Times {
    ranks: HashMap<(String, u32), Instant>,
    lines: VecDeque<Instant>,
}

static SAID: PerProcess<Said> = PerProcess::new();

/// Reports that an op of this rank of this group waits, unless that was reported less than a minute ago. `text`
/// continues the line after `rank 3 of group "g" `. It is called on a thread of its own and may take long.
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

/// Whether the process may write one more line.
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
    // The waiting thread may have a subscriber of its own.
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

/// Reports from time to time which ranks are missing, for a thread that waits in steps for ranks to meet.
pub struct Reminder {
    every: Option<Duration>,
    began: Instant,
    next: Instant,
    last: Option<(String, Instant)>,
}

impl Reminder {
    /// A reminder for a wait that begins now.
    pub fn new(every: Option<Duration>) -> Reminder {
        let began = Instant::now();
        Reminder { every, began, next: began + every.unwrap_or(LONGEST), last: None }
    }

    /// The time until which to wait before the next look, at most `deadline`.
    pub fn until(&self, deadline: Instant) -> Instant {
        self.next.min(deadline)
    }

    /// Whether a report is due. It is `true` once per interval.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.every.is_some() && now >= self.next;
        if due {
            self.next = now + self.every.unwrap_or(LONGEST);
        }
        due
    }

    /// Reports the text, unless the same was reported less than a minute ago.
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

/// `rank 3` or `ranks 3, 4`; a long list is shortened.
pub fn ranks(list: &[u32]) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = list.iter().take(SHOWN).map(u32::to_string).collect();
    let word = if list.len() == 1 { "rank" } else { "ranks" };
    let more = if list.len() > SHOWN { format!(" and {} more", list.len() - SHOWN) } else { String::new() };
    format!("{word} {}{more}", names.join(", "))
}

/// The same with its verb: `rank 3 is`, `ranks 3, 4 are`.
pub fn ranks_are(list: &[u32]) -> String {
    format!("{} {}", ranks(list), if list.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting() {
        assert_eq!(after(Some("2.5")).unwrap(), Some(Duration::from_millis(2500)));
        assert_eq!(after(Some("0")).unwrap(), None);
        for bad in ["-1", "soon", "nan", ""] {
            assert!(after(Some(bad)).unwrap_err().to_string().contains("warn-after is"), "{bad}");
        }
    }

    #[test]
    fn one_line_a_minute_for_a_rank_and_few_for_a_process() {
        let (tell, told) = std::sync::mpsc::channel();
        let say = |rank| {
            let tell = tell.clone();
            say("a group of this test", rank, move || {
                let _ = tell.send(rank);
                String::new()
            });
        };
        (0..1000).for_each(|_| say(7));
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(7));
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
        let mut lines = VecDeque::new();
        let now = Instant::now();
        assert_eq!((0..1000).filter(|_| may_speak(&mut lines, now)).count(), LINES);
        assert!(may_speak(&mut lines, now + MINUTE));
    }

    #[test]
    fn a_text_that_panics_or_is_long_harms_nobody() {
        say("another group of this test", 1, || panic!("this test's"));
        assert_eq!(bounded("é\n".repeat(5000)).len(), LENGTH);
    }

    #[test]
    fn who_is_missing_is_said_again_when_that_changes() {
        let mut reminder = Reminder::new(Some(Duration::from_millis(1)));
        std::thread::sleep(Duration::from_millis(2));
        assert!(reminder.is_due());
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
