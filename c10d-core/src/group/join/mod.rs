//! How the ranks of one group find each other through the store and agree on the group.
//!
//! The store may contain keys of an earlier run, so a key of a peer does not prove that the peer is present now. Every
//! rank writes a `hello` with a new random nonce. One rank, the leader, reads all hellos and writes a `session` that
//! lists their nonces. A rank accepts a session only if the session lists the rank's own nonce. The rank then writes an
//! acknowledgement. When all ranks have acknowledged and all hellos describe the same group, the leader writes `go`.
//! All later keys of the group have the session's id as prefix.
//!
//! If the hello of a rank is from an earlier run (stale), the session does not list the rank's own nonce, so the rank
//! does not acknowledge the session. When the rank replaces the stale hello by a new hello, the leader reads the hellos
//! again and writes a new session. Each rank deletes its keys as soon as it has seen `go`, so that the next group of
//! the same name does not find them.
//!
//! A hello that contradicts the leader's hello may be stale, so the leader still writes a session. If the rank with the
//! contradicting hello acknowledges, the hello is not stale, and the ranks really disagree. The leader then writes this
//! failure for all ranks.

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
    /// For each device (`cpu`, `cuda`, ..) on which the ranks agreed: its name, and the choice that serves it (see
    /// [`Choice::name`](crate::backend::registry::Choice::name)).
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

/// Makes the agreement for a group in which some ranks use another library. That library does not use this protocol. So
/// the agreement has the backends that this rank's backend map names, and this rank does not ask the other ranks.
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
    /// The rank with the lowest id, so that ranks that list the members in different orders have the same leader.
    leader: u32,
    /// The ids of the ranks: their numbers in the group that the builder made. The keys of a rank contain its id.
    ids: Vec<u32>,
    /// Whether the builder made this group. Only the keys of such a group can be stale: the keys of a sub-group contain
    /// the session id of its parent.
    first: bool,
    /// The group from which this group is made, if there is one. The parent knows which ranks are gone.
    parent: Option<&'a Parent>,
    hello: Hello,
    /// The time between two heartbeats.
    every: Duration,
    /// The number of heartbeats so far, and the time of the last heartbeat.
    heartbeats: Cell<(u32, Instant)>,
    /// The time at which a quarter of the time limit has passed. If the leader has not put this rank into a session by
    /// then, this rank reads all hellos. At the deadline this rank reads all hellos again: a rank whose hello has not
    /// changed counts as absent.
    quarter: Instant,
    reminder: RefCell<Reminder>,
    name: &'a str,
    /// The sessions that this rank has acknowledged.
    acked: RefCell<Vec<Nonce>>,
    deadline: Instant,
}

/// The encoded hello of each rank, if the store has one.
type Hellos = Vec<Option<Vec<u8>>>;

/// The shortest and the longest interval between two reads of other ranks' keys; see also [`Join::longest`].
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// The shortest and the longest time between two heartbeats (updates of the hello) of a rank that waits.
const BEATS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a request to the store that does not wait for other ranks may take.
const NAMING: Duration = Duration::from_millis(500);
/// Marks a failure that the leader writes to the store if its cause is a rank that is gone.
const DEAD: &str = "dead";
/// Marks a failure that the leader writes to the store if its cause is that the hellos of ranks contradict each other.
const DIFFER: &str = "differ";

impl Join<'_> {
    /// Joins the group. Returns the session's id, and the agreement on the backends as [`agree`](agree::agree) writes
    /// it.
    fn run(&self) -> Result<(Nonce, String)> {
        let alone = self.ids.len() == 1;
        if self.first || !alone {
            self.store.set(&self.hello_key(self.rank), &self.hello.encode(), self.grace())?;
        }
        if alone {
            // The hello is not deleted, so that ranks that expect a larger group can see it.
            return Ok((nonce()?, agree(&[&self.hello.offers])?));
        }
        let (id, agreed) = if self.rank == self.leader { self.lead() } else { self.follow() }?;
        self.tidy(&id);
        Ok((id, agreed))
    }

    /// Deletes this rank's keys. The last rank that does so also deletes the keys of the session. Errors of the store
    /// are ignored, since the group exists already.
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

    fn soon(&self, wait: Duration) -> Instant {
        (Instant::now() + wait).min(self.deadline)
    }

    /// Returns the deadline for a request that does not wait for other ranks: the deadline of the join, but at least
    /// [`NAMING`] from now. Otherwise, near the deadline of the join, the error would name the store instead of the
    /// missing ranks.
    fn grace(&self) -> Instant {
        self.deadline.max(Instant::now() + NAMING)
    }

    /// Returns the longest interval between two reads of other ranks' keys in this join: at most the interval of
    /// heartbeats. In a join with a parent the interval is shorter, so that this rank soon learns which ranks the
    /// parent has lost.
    fn longest(&self) -> Duration {
        let longest = if self.parent.is_some() { LOOKS.0 } else { LOOKS.1 };
        longest.min(self.every)
    }

    /// Waits until `until` for a key and returns its value, or `None` if the key did not appear.
    fn read(&self, key: &str, until: Instant) -> Result<Option<Vec<u8>>> {
        match self.store.get(key, until) {
            Ok(value) => Ok(Some(value)),
            Err(e) if Instant::now() < until => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// Returns the value of a key, if it exists now.
    fn peek(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match self.store.check(&[key], self.grace())? {
            true => self.read(key, Instant::now() + NAMING),
            false => Ok(None),
        }
    }

    /// Returns `false` if the key does not exist, and `true` if it exists or the store does not answer.
    fn is_there(&self, key: &str) -> bool {
        !matches!(self.store.check(&[key], Instant::now() + NAMING), Ok(false))
    }

    /// Waits until all hellos are in the store, or until `until`, and returns the hellos that are in the store.
    fn greetings(&self, until: Instant) -> Result<Hellos> {
        let keys: Vec<String> = self.ranks().map(|r| self.hello_key(r)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        if until > Instant::now()
            && let Ok(all) = self.store.multi_get(&keys, until)
        {
            return Ok(all.into_iter().map(Some).collect());
        }
        keys.iter().map(|key| self.peek(key)).collect()
    }

    /// Updates this rank's hello if the last heartbeat was long ago, to show that the rank still waits.
    fn beat(&self) -> Result {
        self.remind();
        let (heartbeats, last) = self.heartbeats.get();
        if last.elapsed() >= self.every && !self.is_late() {
            self.is_mine()?;
            self.heartbeats.set((heartbeats + 1, Instant::now()));
            let hello = Hello { beat: heartbeats + 1, ..self.hello.clone() };
            // The error is ignored: if the store does not answer any more, the next request returns an error.
            let _ = self.store.set(&self.hello_key(self.rank), &hello.encode(), self.grace());
        }
        Ok(())
    }

    /// Reports which ranks are missing, if a report is due.
    fn remind(&self) {
        let mut reminder = self.reminder.borrow_mut();
        if reminder.is_due() {
            let missing = self.absent(|r| self.hello_key(r));
            let whom = match &missing[..] {
                [] => "all ranks have joined, but not all have acknowledged the session".to_owned(),
                missing => format!("{} missing", waiting::ranks_are(missing)),
            };
            reminder.say(&format!("rank {} joins group {:?} of {}: {whom}", self.rank, self.name, self.ids.len()));
        }
    }

    /// Returns an error if another process has overwritten or deleted this rank's hello.
    fn is_mine(&self) -> Result {
        match self.peek(&self.hello_key(self.rank)) {
            Ok(Some(mine)) if nonce_of(&mine) == self.hello.nonce => Ok(()),
            Ok(_) => Err(self.used_twice()),
            Err(_) => Ok(()),
        }
    }

    fn used_twice(&self) -> Error {
        let what = "another process joined the group with the same rank; give each process its own rank";
        Error::new(ErrorKind::Rendezvous, what).guilty([self.rank])
    }

    /// Returns the ranks that the parent group knows to be gone. Call this function before reading the store: then the
    /// store already has everything that these ranks have written.
    fn lost(&self) -> Vec<u32> {
        self.parent.map_or_else(Vec::new, Parent::lost)
    }

    /// Returns an error if `done` returns `false` for one of the `lost` ranks, since a lost rank writes nothing more
    /// into the store.
    fn check_lost(&self, lost: &[u32], done: impl Fn(u32) -> bool) -> Result {
        if lost.iter().all(|r| *r == self.rank || done(*r)) { Ok(()) } else { Err(self.lost_error(lost.to_vec())) }
    }

    fn lost_error(&self, lost: Vec<u32>) -> Error {
        let how = "died or left the parent group before the new group was made".to_owned();
        Error::new(
            ErrorKind::PeerDead { how },
            "call shrink or shrink_to_survivors on the parent group to make a group without the guilty ranks",
        )
        .guilty(lost)
    }

    /// Returns the ranks, except this rank, whose key does not exist, or all others if the store does not answer.
    fn absent(&self, key: impl Fn(u32) -> String) -> Vec<u32> {
        let until = Instant::now() + NAMING;
        let here = |r: &u32| matches!(self.store.check(&[&key(*r)], until), Ok(true));
        self.ranks().filter(|r| *r != self.rank && !here(r)).collect()
    }

    /// Returns an error that names these missing ranks, or `otherwise` if there are none.
    fn missing(&self, ranks: Vec<u32>, otherwise: &Error) -> Error {
        if ranks.is_empty() {
            return otherwise.clone();
        }
        let what = format!(
            "{} of {} ranks did not join the group in time; check that they were started with the same store, world \
                size and group name",
            ranks.len(),
            self.ids.len()
        );
        Error::new(ErrorKind::Rendezvous, what).guilty(ranks)
    }
}
