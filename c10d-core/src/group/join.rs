//! How the ranks of one group agree, through the store, that they are the same group.
//!
//! A store may hold keys of an earlier run, so the mere presence of a peer's key proves nothing. Every rank writes a
//! `hello` with a fresh nonce; the lowest rank collects them and publishes a `session` that lists every nonce; a rank
//! believes only a session with its own nonce in it, and acknowledges. When all have, the leader says `go`. All later
//! keys lie under the session's id. If a stale hello was collected, its rank never acknowledges; the leader reads again
//! and publishes a new session.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::builder::Parts;
use crate::store::{PrefixStore, Store};
use crate::{Error, ErrorKind, Phase, Result};

const VERSION: u32 = 1;
type Nonce = [u8; 16];

/// A group that all ranks believe in.
pub(super) struct Joined {
    pub(super) session: [u8; 16],
    pub(super) store: Arc<dyn Store>,
}

/// What a rank says of itself and of the group.
#[derive(Clone, PartialEq)]
struct Hello {
    nonce: Nonce,
    version: u32,
    size: u32,
    /// The members in the numbering of the first group; empty for the first group.
    members: Vec<u32>,
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.nonce.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        self.members.iter().for_each(|m| out.extend(m.to_le_bytes()));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Hello> {
        let (nonce, rest) = bytes.split_first_chunk::<16>()?;
        let words: Vec<u32> = rest.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
        let (&[version, size], members) = words.split_first_chunk::<2>()?;
        Some(Hello { nonce: *nonce, version, size, members: members.to_vec() })
    }
}

/// 16 bytes that nobody else has.
fn nonce() -> Nonce {
    // Every RandomState has keys of its own, seeded by the system.
    let word = || RandomState::new().build_hasher().finish().to_le_bytes();
    let mut out = [0; 16];
    out[..8].copy_from_slice(&word());
    out[8..].copy_from_slice(&word());
    out
}

pub(super) fn join(parts: &Parts, deadline: Instant) -> Result<Joined> {
    let store: Arc<dyn Store> = Arc::new(PrefixStore::new(format!("group/{}", parts.name), parts.store.clone()));
    let hello = Hello {
        nonce: nonce(),
        version: VERSION,
        size: parts.size,
        members: parts.global.as_ref().map_or(Vec::new(), |g| g.to_vec()),
    };
    let join = Join { store: &*store, rank: parts.rank, size: parts.size, hello, deadline };
    let id = join.run().map_err(|e| if e.report().phase.is_none() { e.phase(Phase::Rendezvous) } else { e })?;
    Ok(Joined { session: id, store: Arc::new(PrefixStore::new(hex(&id), store)) })
}

struct Join<'a> {
    store: &'a dyn Store,
    rank: u32,
    size: u32,
    hello: Hello,
    deadline: Instant,
}

impl Join<'_> {
    fn run(&self) -> Result<Nonce> {
        self.store.set(&self.hello_key(self.rank), &self.hello.encode(), self.deadline)?;
        if self.rank == 0 { self.lead() } else { self.follow() }
    }

    fn hello_key(&self, rank: u32) -> String {
        format!("hello/{rank}")
    }

    /// The ranks whose key is not there.
    fn absent(&self, key: impl Fn(u32) -> String) -> Vec<u32> {
        // The deadline may have passed; looking costs little, and naming is the point.
        let soon = Instant::now() + Duration::from_millis(500);
        (0..self.size).filter(|r| !matches!(self.store.check(&[&key(*r)], soon), Ok(true))).collect()
    }

    fn missing(&self, ranks: Vec<u32>, of: &Error) -> Error {
        if ranks.is_empty() {
            return of.clone();
        }
        let what = format!("{} of {} ranks did not come to the group in time", ranks.len(), self.size);
        Error::new(ErrorKind::Rendezvous, what).guilty(ranks).phase(Phase::Rendezvous)
    }

    fn hellos(&self) -> Result<Vec<Vec<u8>>> {
        let keys: Vec<String> = (0..self.size).map(|r| self.hello_key(r)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.store.multi_get(&keys, self.deadline).map_err(|e| self.missing(self.absent(|r| self.hello_key(r)), &e))
    }

    fn lead(&self) -> Result<Nonce> {
        loop {
            let hellos = match self.hellos() {
                Ok(hellos) => hellos,
                Err(e) => return Err(self.tell_failure(e)),
            };
            if let Err(e) = self.agree(&hellos) {
                return Err(self.tell_failure(e));
            }
            let id = nonce();
            let mut session = id.to_vec();
            hellos.iter().for_each(|h| session.extend_from_slice(&h[..16]));
            self.store.set("session", &session, self.deadline)?;
            if self.size == 1 {
                return Ok(id);
            }
            let id_hex = hex(&id);
            let acks: Vec<String> = (1..self.size).map(|r| format!("{id_hex}/ack/{r}")).collect();
            let acks: Vec<&str> = acks.iter().map(String::as_str).collect();
            loop {
                // A hello that changes while we wait was stale before.
                let slice = (Instant::now() + Duration::from_millis(100)).min(self.deadline);
                if self.store.wait(&acks, slice).is_ok() {
                    self.store.set(&format!("{id_hex}/go"), b"", self.deadline)?;
                    return Ok(id);
                }
                if Instant::now() >= self.deadline {
                    let absent = self.absent(|r| if r == 0 { "session".into() } else { format!("{id_hex}/ack/{r}") });
                    let e = Error::new(ErrorKind::Rendezvous, "the ranks did not answer in time");
                    return Err(self.tell_failure(self.missing(absent, &e)));
                }
                if self.hellos()? != hellos {
                    break;
                }
            }
        }
    }

    /// Publishes why there will be no session, so that the others need not wait; with the nonces of those it is meant
    /// for, since a failure may outlive its run.
    fn tell_failure(&self, error: Error) -> Error {
        let soon = Instant::now() + Duration::from_millis(500);
        let absent = self.absent(|r| self.hello_key(r));
        let seen = (0..self.size).filter(|r| !absent.contains(r));
        let nonces: Vec<String> = seen
            .filter_map(|r| self.store.get(&self.hello_key(r), soon).ok())
            .map(|h| hex(&h[..h.len().min(16)]))
            .collect();
        let guilty: Vec<String> = error.report().guilty.iter().map(u32::to_string).collect();
        let text = format!("failed:{}:{}:{}", nonces.join(","), guilty.join(","), error.report().what);
        let _ = self.store.set("session", text.as_bytes(), soon);
        error
    }

    fn agree(&self, hellos: &[Vec<u8>]) -> Result {
        for (rank, bytes) in hellos.iter().enumerate() {
            let theirs = Hello::decode(bytes).ok_or_else(|| {
                Error::new(ErrorKind::Rendezvous, "its greeting cannot be read; is it another version?")
                    .guilty([rank as u32])
            })?;
            let differs = |field, mine: String, theirs: String| {
                Err(Error::new(
                    ErrorKind::Mismatch { field, mine, theirs },
                    "the ranks contradict each other about the group",
                )
                .guilty([rank as u32]))
            };
            if theirs.version != self.hello.version {
                return differs("version", self.hello.version.to_string(), theirs.version.to_string());
            }
            if theirs.size != self.hello.size {
                return differs("world_size", self.hello.size.to_string(), theirs.size.to_string());
            }
            if theirs.members != self.hello.members {
                return differs("members", format!("{:?}", self.hello.members), format!("{:?}", theirs.members));
            }
        }
        Ok(())
    }

    fn follow(&self) -> Result<Nonce> {
        let mut pause = Duration::from_micros(200);
        loop {
            let session = self
                .store
                .get("session", self.deadline)
                .map_err(|e| self.missing(self.absent(|r| self.hello_key(r)), &e))?;
            let place = 16 + 16 * self.rank as usize;
            if session.get(place..place + 16) == Some(&self.hello.nonce)
                && session.len() == 16 + 16 * self.size as usize
            {
                let mut id = [0; 16];
                id.copy_from_slice(&session[..16]);
                let id_hex = hex(&id);
                self.store.set(&format!("{id_hex}/ack/{}", self.rank), b"", self.deadline)?;
                let slice = (Instant::now() + Duration::from_millis(500)).min(self.deadline);
                if self.store.wait(&[&format!("{id_hex}/go")], slice).is_ok() {
                    return Ok(id);
                }
                if Instant::now() < self.deadline {
                    continue;
                }
                let absent = self.absent(|r| if r == 0 { format!("{id_hex}/go") } else { format!("{id_hex}/ack/{r}") });
                let e = Error::new(ErrorKind::Rendezvous, "the ranks did not agree in time");
                return Err(self.missing(absent.into_iter().filter(|r| *r != self.rank).collect(), &e));
            }
            self.leader_failed(&session)?;
            // Our size may differ from the leader's, which it cannot know before it has all of *its* ranks.
            let leader = self.store.get(&self.hello_key(0), self.deadline)?;
            if Instant::now() >= self.deadline {
                self.agree(&[leader])?;
                let e = Error::new(
                    ErrorKind::Rendezvous,
                    "rank 0 published no session with this rank in it; is the rank used twice?",
                );
                return Err(self.missing(self.absent(|r| self.hello_key(r)), &e));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// The leader's published failure, if it is meant for this rank.
    fn leader_failed(&self, session: &[u8]) -> Result {
        let Some(text) = std::str::from_utf8(session).ok().and_then(|t| t.strip_prefix("failed:")) else {
            return Ok(());
        };
        let mut parts = text.splitn(3, ':');
        let (nonces, guilty, what) = (parts.next(), parts.next(), parts.next().unwrap_or("no reason given"));
        if !nonces.is_some_and(|n| n.split(',').any(|n| n == hex(&self.hello.nonce))) {
            return Ok(());
        }
        let guilty = guilty.unwrap_or("").split(',').filter_map(|g| g.parse().ok());
        Err(Error::new(ErrorKind::Rendezvous, format!("rank 0 gave up: {what}")).guilty(guilty))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
