//! How the ranks of one group agree, through the store, that they are the same group.
//!
//! A store may hold keys of an earlier run, so the mere presence of a peer's key proves nothing. Every rank writes a
//! `hello` with a fresh nonce; the leader collects them and publishes a `session` that lists the nonces; a rank believes
//! only a session with its own nonce in it, and acknowledges. When all have, and all speak of the same group, the leader
//! says `go`. All later keys lie under the session's id. If a stale hello was collected, its rank never acknowledges; the
//! leader reads again and publishes a new session.
//!
//! A hello that contradicts the leader's may be stale too, so it is put to the same test: if its rank acknowledges, the
//! ranks disagree indeed, and all are told.

mod agree;
mod hello;
mod lead;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hello::{Hello, Nonce, hex};

use super::builder::{FOREIGN, Parts};
use crate::registry::Offer;
use crate::store::{PrefixStore, Store};
use crate::{Error, ErrorKind, Phase, Result};

/// A group that all ranks believe in.
pub(super) struct Joined {
    pub(super) session: [u8; 16],
    pub(super) store: Arc<dyn Store>,
    /// Which choice serves which device word.
    pub(super) served: Vec<(String, String)>,
}

pub(super) fn join(parts: &Parts, offers: &[Offer], deadline: Instant) -> Result<Joined> {
    let store: Arc<dyn Store> = Arc::new(PrefixStore::new(format!("group/{}", parts.name), parts.store.clone()));
    let members = parts.global.as_deref();
    let ids: Vec<u32> = members.map_or_else(|| (0..parts.size).collect(), <[u32]>::to_vec);
    let leader = (0..parts.size).min_by_key(|r| ids[*r as usize]).unwrap_or(0);
    let hello = Hello::new(parts.size, members.unwrap_or(&[]), agree::write(offers));
    let first = members.is_none();
    let join = Join { store: &*store, rank: parts.rank, leader, ids, first, hello, deadline };
    let (id, agreed) = join.run().map_err(|mut e| {
        e.report_mut().phase.get_or_insert(Phase::Rendezvous);
        e
    })?;
    let served = agree::decided(&agreed);
    Ok(Joined { session: id, store: Arc::new(PrefixStore::new(hex(&id), store)), served })
}

/// A group of which other ranks are another library's, which knows nothing of all this: what this rank's map names is
/// taken, and the store is left alone.
pub(super) fn on_trust(parts: &Parts, offers: &[Offer]) -> Result<Joined> {
    let mut served = Vec::new();
    for offer in offers.iter().filter(|o| o.explicit) {
        let Some(choice) = offer.choices.as_ref().ok().and_then(|c| c.first()) else { continue };
        let hint = format!("{}{FOREIGN}", choice.name());
        if !parts.hints.contains_key(&hint) {
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
    Ok(Joined { session: [0; 16], store: parts.store.clone(), served })
}

struct Join<'a> {
    store: &'a dyn Store,
    rank: u32,
    /// The rank with the lowest id: lists in different order still have one leader.
    leader: u32,
    /// The ranks in the numbering of the first group; keys go by them.
    ids: Vec<u32>,
    /// Whether this is the first group: only there a stale key can be met.
    first: bool,
    hello: Hello,
    deadline: Instant,
}

/// The first and the longest time between two looks at what may have changed meanwhile.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// For naming the guilty after the deadline: looking costs little, and naming is the point.
const NAMING: Duration = Duration::from_millis(500);

impl Join<'_> {
    /// The session's id, and what serves which device.
    fn run(&self) -> Result<(Nonce, String)> {
        self.store.set(&self.hello_key(self.rank), &self.hello.encode(), self.deadline)?;
        if self.rank == self.leader { self.lead() } else { self.follow() }
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

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// A moment from now, but not past the deadline.
    fn soon(&self, wait: Duration) -> Instant {
        (Instant::now() + wait).min(self.deadline)
    }

    /// The other ranks whose key is not there.
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

    fn follow(&self) -> Result<(Nonce, String)> {
        let mut pause = Duration::from_micros(200);
        loop {
            let session = self
                .store
                .get(&self.session_key(), self.deadline)
                .map_err(|e| self.missing(self.absent(|r| self.hello_key(r)), &e))?;
            if let Some(id) = self.believe(&session) {
                self.store.set(&self.ack_key(&id, self.rank), b"", self.deadline)?;
                if let Ok(agreed) = self.store.get(&format!("{}/go", hex(&id)), self.soon(LOOKS.0)) {
                    return Ok((id, String::from_utf8_lossy(&agreed).into_owned()));
                }
                if self.is_late() {
                    let silent = self
                        .absent(|r| if r == self.leader { format!("{}/go", hex(&id)) } else { self.ack_key(&id, r) });
                    let others: Vec<u32> = silent.iter().copied().filter(|r| *r != self.leader).collect();
                    let e = Error::new(ErrorKind::Rendezvous, "the ranks did not agree in time");
                    // The leader is silent because others are, if there are any.
                    return Err(self.missing(if others.is_empty() { silent } else { others }, &e));
                }
                continue;
            }
            self.told_failure(&session)?;
            if self.is_late() {
                self.agrees_with(self.leader)?;
                let what = "the leading rank published no session with this rank in it; is the rank used twice?";
                let e = Error::new(ErrorKind::Rendezvous, what).guilty([self.leader]);
                return Err(self.missing(self.absent(|r| self.hello_key(r)), &e));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// The id of a session that lists this rank's nonce.
    fn believe(&self, session: &[u8]) -> Option<Nonce> {
        let (id, nonces) = session.split_first_chunk::<16>()?;
        nonces.chunks_exact(16).any(|n| n == self.hello.nonce).then_some(*id)
    }

    /// The leader's published failure, if it is meant for this rank.
    fn told_failure(&self, session: &[u8]) -> Result {
        let Some(text) = std::str::from_utf8(session).ok().and_then(|t| t.strip_prefix("failed:")) else {
            return Ok(());
        };
        let mut parts = text.splitn(3, ':');
        let mut list = || parts.next().unwrap_or("").split(',');
        let mine = hex(&self.hello.nonce);
        // Only the store of a first group may hold another run's failure.
        let for_me = list().any(|n| n == mine);
        if self.first && !for_me {
            return Ok(());
        }
        let ids: Vec<u32> = list().filter_map(|g| g.parse().ok()).collect();
        let guilty: Vec<u32> = self.ranks().filter(|r| ids.contains(&self.ids[*r as usize])).collect();
        // If it is about a contradiction, see it with own eyes: between whom depends on the side.
        self.agrees_with(self.leader)?;
        guilty.iter().filter(|r| **r != self.rank).try_for_each(|r| self.agrees_with(*r))?;
        let what = parts.next().unwrap_or("no reason given");
        Err(Error::new(ErrorKind::Rendezvous, format!("the leading rank gave up: {what}")).guilty(guilty))
    }

    /// Whether that rank's greeting, if there is one, speaks of the same group.
    fn agrees_with(&self, rank: u32) -> Result {
        let (key, until) = (self.hello_key(rank), Instant::now() + NAMING);
        match self.store.check(&[&key], until) {
            Ok(true) => self.hello.agrees(&self.store.get(&key, until)?, rank),
            _ => Ok(()),
        }
    }
}
