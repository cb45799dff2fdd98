//! Waiting is never silent: what waits for long says so on stderr and by [`tracing`], as a warning with target `c10d`.
//!
//! After how long, the hint `warn-after` of a group says, or else the variable `C10D_WARN_AFTER`: seconds, 10 unless set,
//! `0` = never. A rank speaks of the ops of one group at most once a minute, and of who is missing where ranks meet as often
//! as that changes. Lines are written by a thread of their own, which also finds out what is to be said: nobody who waits is
//! delayed, and no lock is held.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::panics::{caught, contain};
use crate::process::PerProcess;
use crate::{Error, Result};

/// The hint that says after how many seconds.
pub const HINT: &str = "warn-after";
/// The variable that says so where no hint does.
pub const VARIABLE: &str = "C10D_WARN_AFTER";

const USUAL: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long something that was said is not said again.
const MINUTE: Duration = Duration::from_secs(60);
/// Lines of one process in a minute, at most.
const LINES: usize = 20;
/// Lines that are on their way at once, at most: stderr may be a pipe that nobody reads.
const UNDERWAY: usize = 4;
/// Bytes of a line, at most.
const LENGTH: usize = 2000;

/// After how long a wait is spoken of; `None`: never. `hint` is the value of the hint, if there is one.
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

/// When was spoken last: of each rank of a group, and at all.
#[derive(Default)]
struct Times {
    ranks: HashMap<(String, u32), Instant>,
    lines: VecDeque<Instant>,
}

static SAID: PerProcess<Said> = PerProcess::new();

/// Says that an op of this rank of this group waits, unless one said so less than a minute ago. `text` goes on after
/// "rank 3 of group "g" "; it is asked on a thread of its own, and may take its time.
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

/// Whether the process may say one more line.
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
            // Where nobody listens, that is no reason to panic.
            let _ = writeln!(std::io::stderr(), "c10d: {line}");
        }
        said.underway.fetch_sub(1, Ordering::Relaxed);
    };
    // The subscriber of the thread that waits, which may have one of its own.
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

/// For who waits in steps until ranks have come together: says from time to time who is missing.
pub struct Reminder {
    every: Option<Duration>,
    began: Instant,
    next: Instant,
    last: Option<(String, Instant)>,
}

impl Reminder {
    /// For a wait that begins now.
    pub fn new(every: Option<Duration>) -> Reminder {
        let began = Instant::now();
        Reminder { every, began, next: began + every.unwrap_or(LONGEST), last: None }
    }

    /// Until when to wait before the next look, at the longest until `deadline`.
    pub fn until(&self, deadline: Instant) -> Instant {
        self.next.min(deadline)
    }

    /// Whether it is time to say something. `true` once per interval.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.every.is_some() && now >= self.next;
        if due {
            self.next = now + self.every.unwrap_or(LONGEST);
        }
        due
    }

    /// Says what is waited for, unless the same was said less than a minute ago.
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

/// `rank 3`, `ranks 3, 4`; of many the first ones.
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
