//! How the ranks of one group agree, through the store, that they are the same group.
//!
//! A store may hold keys of an earlier run, so the mere presence of a peer's key proves nothing. Every rank writes a
//! `hello` with a fresh nonce; the leader collects them and publishes a `session` that lists the nonces; a rank believes
//! only a session with its own nonce in it, and acknowledges. When all have, and all speak of the same group, the leader
//! says `go`. All later keys lie under the session's id. If a stale hello was collected, its rank never acknowledges; the
//! leader reads again and publishes a new session. Each rank takes its keys away as soon as it has seen `go`, so that the
//! next group of this name finds none.
//!
//! A hello that contradicts the leader's may be stale, too, so it is tested in the same way: if its rank acknowledges,
//! the ranks really disagree, and all are told.

mod agree;
mod follow;
mod hello;
mod key_prefix;
mod lead;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agree::agree;
use hello::{Hello, Nonce, hex, nonce, nonce_of};
pub(super) use key_prefix::key_prefix;

use super::builder::{FOREIGN, GroupSpec};
use super::other_backends::Parent;
use crate::backend::registry::Offer;
use crate::store::{PrefixStore, Store};
use crate::waiting::{self, Reminder};
use crate::{Error, ErrorKind, Phase, Result};

/// A group on which all ranks agree.
pub(super) struct Agreement {
    pub(super) session: [u8; 16],
    pub(super) store: Arc<dyn Store>,
    /// The choice that serves each device word.
    pub(super) served: Vec<(String, String)>,
}

pub(super) fn join(spec: &GroupSpec, offers: &[Offer], deadline: Instant) -> Result<Agreement> {
    let store: Arc<dyn Store> = Arc::new(PrefixStore::new(spec.key_prefix.clone(), spec.store.clone()));
    let members = spec.global.as_deref();
    let ids: Vec<u32> = members.map_or_else(|| (0..spec.size).collect(), <[u32]>::to_vec);
    let leader = (0..spec.size).min_by_key(|r| ids[*r as usize]).unwrap_or(0);
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let every = (left / 8).clamp(BEATS.0, BEATS.1);
    let hello = Hello::new(spec.size, members.unwrap_or(&[]), every, agree::write(offers))?;
    let join = Join {
        store: &*store,
        rank: spec.rank,
        leader,
        ids,
        first: members.is_none(),
        parent: spec.parent.as_deref(),
        hello,
        every,
        heartbeats: Cell::new((0, now)),
        quarter: now + left / 4,
        reminder: RefCell::new(Reminder::new(waiting::after(spec.hints.get(waiting::HINT).map(String::as_str))?)),
        name: &spec.name,
        acked: RefCell::default(),
        deadline,
    };
    let (id, agreed) = join.run().map_err(|mut e| {
        e.report_mut().phase.get_or_insert(Phase::Rendezvous);
        e
    })?;
    let served = agree::decided(&agreed);
    Ok(Agreement { session: id, store: Arc::new(PrefixStore::new(hex(&id), store)), served })
}

/// For a group with ranks of another library, which does not use this protocol: takes what this rank's map names, and
/// does not use the store.
pub(super) fn on_trust(spec: &GroupSpec, offers: &[Offer]) -> Result<Agreement> {
    let mut served = Vec::new();
    for offer in offers.iter().filter(|o| o.explicit) {
        let Some(choice) = offer.choices.as_ref().ok().and_then(|c| c.first()) else { continue };
        let hint = format!("{}{FOREIGN}", choice.name());
        if !spec.hints.contains_key(&hint) {
            let what = format!(
                "{} on {} cannot be in a group with another library's ranks; leave it out of the backend map",
                choice.name(),
                offer.word
            );
            return Err(Error::invalid(what));
        }
        served.push((offer.word.clone(), choice.name()));
    }
    if served.is_empty() {
        return Err(Error::invalid(
            "a group with another library's ranks needs a backend map that names its backend, such as cuda:nccl",
        ));
    }
    Ok(Agreement { session: [0; 16], store: spec.store.clone(), served })
}

struct Join<'a> {
    store: &'a dyn Store,
    rank: u32,
    /// The rank with the lowest id, so that lists in different orders have the same leader.
    leader: u32,
    /// The ranks in the numbering of the first group; keys go by them.
    ids: Vec<u32>,
    /// Whether this is the first group. Only its keys can be stale.
    first: bool,
    /// The group from which this one is made. It knows which ranks are dead.
    parent: Option<&'a Parent>,
    hello: Hello,
    every: Duration,
    /// The number of heartbeats so far, and the time of the last one.
    heartbeats: Cell<(u32, Instant)>,
    /// The time at which the others' entries in the store are read, for a later comparison.
    quarter: Instant,
    reminder: RefCell<Reminder>,
    name: &'a str,
    /// The sessions that this rank has acknowledged.
    acked: RefCell<Vec<Nonce>>,
    deadline: Instant,
}

/// The greeting of each rank, if there is one.
type Hellos = Vec<Option<Vec<u8>>>;

/// The first and the longest interval between two looks at values that may change.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// The shortest and the longest time between two heartbeats of a rank that waits.
const BEATS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Extra time after the deadline in which the guilty ranks are looked up.
const NAMING: Duration = Duration::from_millis(500);
/// Marks a published failure whose cause is a rank that is gone, or ranks that contradict each other.
const DEAD: &str = "dead";
const DIFFER: &str = "differ";

impl Join<'_> {
    /// The session's id, and what serves which device.
    fn run(&self) -> Result<(Nonce, String)> {
        let alone = self.ids.len() == 1;
        if self.first || !alone {
            self.store.set(&self.hello_key(self.rank), &self.hello.encode(), self.grace())?;
        }
        if alone {
            // The greeting stays, for ranks that assume a larger group.
            return Ok((nonce()?, agree(&[&self.hello.offers])?));
        }
        let (id, agreed) = if self.rank == self.leader { self.lead() } else { self.follow() }?;
        self.tidy(&id);
        Ok((id, agreed))
    }

    /// Deletes this rank's keys; the last rank deletes those of all. The group exists even if the store fails here.
    fn tidy(&self, id: &Nonce) {
        let until = Instant::now() + NAMING;
        let delete = |key: String| drop(self.store.delete(&key, until));
        delete(self.hello_key(self.rank));
        self.acked.borrow().iter().for_each(|session| delete(self.ack_key(session, self.rank)));
        let done = format!("{}/done", hex(id));
        if self.store.add(&done, 1, until).is_ok_and(|n| n == self.ids.len() as i64) {
            if self.peek(&self.session_key()).is_ok_and(|s| s.is_some_and(|s| s.starts_with(id))) {
                delete(self.session_key());
            }
            delete(self.go_key(id));
            delete(done);
        }
    }

    fn ranks(&self) -> std::ops::Range<u32> {
        0..self.ids.len() as u32
    }

    fn hello_key(&self, rank: u32) -> String {
        format!("hello/{}", self.ids[rank as usize])
    }

    fn session_key(&self) -> String {
        format!("session/{}", self.ids[self.leader as usize])
    }

    fn ack_key(&self, session: &Nonce, rank: u32) -> String {
        format!("{}/ack/{}", hex(session), self.ids[rank as usize])
    }

    fn go_key(&self, session: &Nonce) -> String {
        format!("{}/go", hex(session))
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// A moment from now, but not past the deadline.
    fn soon(&self, wait: Duration) -> Instant {
        (Instant::now() + wait).min(self.deadline)
    }

    /// A deadline for requests that do not wait for other ranks, so that the store is not blamed when the time is over.
    fn grace(&self) -> Instant {
        self.deadline.max(Instant::now() + NAMING)
    }

    /// The longest time between two looks.
    fn longest(&self) -> Duration {
        let longest = if self.parent.is_some() { LOOKS.0 } else { LOOKS.1 };
        longest.min(self.every)
    }

    /// The value of a key, which may appear until then.
    fn read(&self, key: &str, until: Instant) -> Result<Option<Vec<u8>>> {
        match self.store.get(key, until) {
            Ok(value) => Ok(Some(value)),
            Err(e) if Instant::now() < until => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// The value of a key, if it exists now.
    fn peek(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let until = Instant::now() + NAMING;
        match self.store.check(&[key], until)? {
            true => self.read(key, until),
            false => Ok(None),
        }
    }

    /// Whether the key exists; true as well if the store does not answer.
    fn is_there(&self, key: &str) -> bool {
        !matches!(self.store.check(&[key], Instant::now() + NAMING), Ok(false))
    }

    /// The greetings, when all are there or at `until`.
    fn greetings(&self, until: Instant) -> Result<Hellos> {
        let keys: Vec<String> = self.ranks().map(|r| self.hello_key(r)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        if until > Instant::now()
            && let Ok(all) = self.store.multi_get(&keys, until)
        {
            return Ok(all.into_iter().map(Some).collect());
        }
        let until = Instant::now() + NAMING;
        let one = |key: &&str| match self.store.check(&[key], until)? {
            true => self.read(key, until),
            false => Ok(None),
        };
        keys.iter().map(one).collect()
    }

    /// Updates this rank's greeting from time to time, to show that it still waits.
    fn beat(&self) -> Result {
        self.remind();
        let (heartbeats, last) = self.heartbeats.get();
        if last.elapsed() >= self.every && !self.is_late() {
            self.is_mine()?;
            self.heartbeats.set((heartbeats + 1, Instant::now()));
            let hello = Hello { beat: heartbeats + 1, ..self.hello.clone() };
            // If this fails, others may take this rank for absent. If the store is gone, the next request reports it.
            let _ = self.store.set(&self.hello_key(self.rank), &hello.encode(), self.grace());
        }
        Ok(())
    }

    /// Reports from time to time which ranks are missing.
    fn remind(&self) {
        let mut reminder = self.reminder.borrow_mut();
        if reminder.is_due() {
            let missing = self.absent(|r| self.hello_key(r));
            let whom = match &missing[..] {
                [] => "all ranks have come, but not all have answered the leading one".to_owned(),
                missing => format!("{} missing", waiting::ranks_are(missing)),
            };
            reminder.say(&format!("rank {} joins group {:?} of {}: {whom}", self.rank, self.name, self.ids.len()));
        }
    }

    /// Checks that this rank's greeting was not overwritten.
    fn is_mine(&self) -> Result {
        match self.peek(&self.hello_key(self.rank)) {
            Ok(Some(mine)) if nonce_of(&mine) == self.hello.nonce => Ok(()),
            Ok(_) => Err(self.used_twice()),
            Err(_) => Ok(()),
        }
    }

    fn used_twice(&self) -> Error {
        let what = "another process joined the group as this rank; is the rank used twice?";
        Error::new(ErrorKind::Rendezvous, what).guilty([self.rank])
    }

    /// The ranks that the parent group knows to be gone. It must be read before the store, so that everything that they
    /// wrote is in the store.
    fn lost(&self) -> Vec<u32> {
        self.parent.map_or_else(Vec::new, Parent::lost)
    }

    /// Fails if one of the `lost` ranks has not done its part, since it never will.
    fn mourn(&self, lost: &[u32], done: impl Fn(u32) -> bool) -> Result {
        if lost.iter().all(|r| *r == self.rank || done(*r)) { Ok(()) } else { Err(self.bereaved(lost.to_vec())) }
    }

    fn bereaved(&self, lost: Vec<u32>) -> Error {
        let how = "gone from the group that this one is made from".to_owned();
        Error::new(ErrorKind::PeerDead { how }, "make the new group without it, by shrink").guilty(lost)
    }

    /// The other ranks whose key does not exist.
    fn absent(&self, key: impl Fn(u32) -> String) -> Vec<u32> {
        let until = Instant::now() + NAMING;
        let here = |r: &u32| matches!(self.store.check(&[&key(*r)], until), Ok(true));
        self.ranks().filter(|r| *r != self.rank && !here(r)).collect()
    }

    fn missing(&self, ranks: Vec<u32>, otherwise: &Error) -> Error {
        if ranks.is_empty() {
            return otherwise.clone();
        }
        let what = format!("{} of {} ranks did not come to the group in time", ranks.len(), self.ids.len());
        Error::new(ErrorKind::Rendezvous, what).guilty(ranks)
    }
}
