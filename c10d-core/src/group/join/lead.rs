//! The join of the leader.

use std::time::Instant;

use super::agree::agree;
use super::hello::{Hello, Nonce, hex, nonce, nonce_of};
use super::{DEAD, DIFFER, Hellos, Join, LOOKS, NAMING};
use crate::{Error, ErrorKind, Result};

impl Join<'_> {
    /// Makes the ranks agree on a session. Returns the session's id and the agreement on the backends.
    pub(super) fn lead(&self) -> Result<(Nonce, String)> {
        self.find_session().map_err(|e| self.tell_failure(e))
    }

    fn find_session(&self) -> Result<(Nonce, String)> {
        let mut look = LOOKS.0;
        loop {
            self.beat()?;
            let lost = self.lost();
            let hellos = self.hellos(self.soon(look))?;
            look = (look * 2).min(self.longest());
            let doubt = self.contradiction(&hellos);
            let complete = hellos.iter().all(Option::is_some);
            if complete || doubt.is_some() {
                let id = nonce()?;
                self.publish(&id, &hellos)?;
                if self.answered(&id, &hellos, doubt.as_ref().map(|(rank, _)| *rank))? {
                    if let Some((_, contradiction)) = doubt {
                        return Err(contradiction);
                    }
                    let hellos: Vec<Hello> = hellos.iter().flatten().filter_map(|h| Hello::decode(h)).collect();
                    let offers: Vec<&str> = hellos.iter().map(|h| h.offers.as_str()).collect();
                    let agreed = agree(&offers)?;
                    self.store.set(&self.go_key(&id), agreed.as_bytes(), self.grace())?;
                    return Ok((id, agreed));
                }
            } else {
                self.check_lost(&lost, |r| hellos[r as usize].is_some())?;
            }
            if self.is_late() {
                let e = Error::new(ErrorKind::Rendezvous, "the ranks did not acknowledge the session in time");
                let mut absent = self.absent(|r| self.hello_key(r));
                return Err(match doubt {
                    Some((_, contradiction)) if !self.first => contradiction,
                    // A rank whose hello contradicts this rank's hello, and which has not acknowledged, is absent: its
                    // hello is of an earlier run.
                    doubt => {
                        absent.extend(doubt.map(|(rank, _)| rank));
                        self.missing(absent, &e)
                    }
                });
            }
        }
    }

    /// Waits until all hellos are in the store, or until `until`, and returns the hellos that are in the store. Returns
    /// an error if this rank's hello was overwritten.
    fn hellos(&self, until: Instant) -> Result<Hellos> {
        let hellos = self.greetings(until)?;
        match hellos.get(self.rank as usize) {
            Some(Some(mine)) if nonce_of(mine) == self.hello.nonce => Ok(hellos),
            _ => Err(self.used_twice()),
        }
    }

    /// Returns the first rank whose hello contradicts this rank's hello, and the error that says so.
    fn contradiction(&self, hellos: &Hellos) -> Option<(u32, Error)> {
        let greetings = self.ranks().zip(hellos).filter_map(|(r, h)| Some((r, h.as_ref()?)));
        greetings.filter_map(|(r, h)| Some((r, self.hello.agrees(h, r).err()?))).next()
    }

    fn publish(&self, id: &Nonce, hellos: &Hellos) -> Result {
        let mut session = id.to_vec();
        hellos.iter().flatten().filter_map(|h| h.get(..16)).for_each(|nonce| session.extend_from_slice(nonce));
        self.store.set(&self.session_key(), &session, self.grace())
    }

    /// Waits for the acknowledgement of rank `doubt`, whose hello contradicts this rank's hello, or of all ranks if
    /// `doubt` is `None`. Returns `true` when they have acknowledged, and `false` if a rank has written a new hello, or
    /// if rank `doubt` has not acknowledged by the deadline.
    fn answered(&self, id: &Nonce, hellos: &Hellos, doubt: Option<u32>) -> Result<bool> {
        let asked = self.ranks().filter(|r| doubt.map_or(*r != self.rank, |d| d == *r));
        let asked: Vec<u32> = asked.collect();
        let acks: Vec<String> = asked.iter().map(|r| self.ack_key(id, *r)).collect();
        let acks: Vec<&str> = acks.iter().map(String::as_str).collect();
        let mut look = LOOKS.0;
        loop {
            self.beat()?;
            let lost = self.lost();
            if acks.is_empty() || self.store.wait(&acks, self.soon(look)).is_ok() {
                return Ok(true);
            }
            self.check_lost(&lost, |r| !asked.contains(&r) || self.is_there(&self.ack_key(id, r)))?;
            if self.is_late() {
                return match doubt {
                    Some(_) => Ok(false),
                    None => {
                        let e = Error::new(ErrorKind::Rendezvous, "the ranks did not acknowledge the session in time");
                        Err(self.missing(self.absent(|r| self.ack_key(id, r)), &e))
                    }
                };
            }
            look = (look * 2).min(self.longest());
            // If a rank has written a hello with a new nonce, its old hello was stale. Then the leader must publish a
            // new session.
            let now = self.hellos(self.soon(LOOKS.0))?;
            let nonce = |h: &Option<Vec<u8>>| h.as_deref().map(|h| nonce_of(h).to_vec());
            if !now.iter().map(nonce).eq(hellos.iter().map(nonce)) {
                return Ok(false);
            }
        }
    }

    /// Writes to the store why the group cannot be made, so that the other ranks need not wait. The message lists the
    /// nonces of the ranks for which it is meant: it may stay in the store after this run, and a later run must ignore
    /// it.
    fn tell_failure(&self, error: Error) -> Error {
        let until = Instant::now() + NAMING;
        let here = |key: &String| matches!(self.store.check(&[key], until), Ok(true));
        let mut keys: Vec<String> = self.ranks().map(|r| self.hello_key(r)).filter(here).collect();
        let mut hellos: Vec<Hello> = Vec::new();
        let mut next = self.ids.len() as u32;
        while let Some(key) = keys.pop() {
            hellos.extend(self.store.get(&key, until).ok().and_then(|h| Hello::decode(&h)));
            // If a peer has a larger world size, the leader also reads the hellos of the ranks beyond its own world
            // size, so that the message lists their nonces.
            let largest = hellos.iter().map(|h| h.size).max().unwrap_or(0);
            if keys.is_empty() && self.first && next < largest && Instant::now() < until {
                keys.extend(Some(format!("hello/{next}")).filter(here));
                next += 1;
            }
        }
        let nonces: Vec<String> = hellos.iter().map(|h| hex(&h.nonce)).collect();
        let guilty: Vec<String> = error.report().guilty.iter().map(|r| self.ids[*r as usize].to_string()).collect();
        let kind = match error.kind() {
            ErrorKind::PeerDead { .. } => DEAD,
            ErrorKind::Mismatch { .. } => DIFFER,
            _ => "",
        };
        let text = format!("failed:{}:{}:{kind}:{}", nonces.join(","), guilty.join(","), error.report().what);
        let _ = self.store.set(&self.session_key(), text.as_bytes(), until + NAMING);
        error
    }
}
