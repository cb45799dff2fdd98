//! The join of a rank that is not the leader.

use std::time::{Duration, Instant};

use super::hello::{Hello, Nonce, hex};
use super::{DEAD, DIFFER, Hellos, Join, LOOKS, NAMING};
use crate::text::harmless;
use crate::{Error, ErrorKind, Result};

impl Join<'_> {
    /// Accepts the leader's session, and waits until the leader writes `go`. Returns the session's id and the agreement
    /// on the backends.
    pub(super) fn follow(&self) -> Result<(Nonce, String)> {
        let mut accepted: Option<Nonce> = None;
        let mut earlier = None;
        let mut pause = Duration::from_micros(200);
        loop {
            self.beat()?;
            let lost = self.lost();
            if let Some(id) = accepted
                && let Some(agreed) = self.read(&self.go_key(&id), self.soon(LOOKS.0))?
            {
                return Ok((id, String::from_utf8_lossy(&agreed).into_owned()));
            }
            let session = match accepted {
                Some(_) => self.peek(&self.session_key())?,
                None => self.read(&self.session_key(), self.soon(self.longest()))?,
            };
            if let Some(session) = session {
                match self.accept(&session) {
                    Some(id) if accepted == Some(id) => {}
                    Some(id) => {
                        // If the store has `go` for the session that this rank accepted, the leader has already joined
                        // this group. Then the new session belongs to the next group of the same name, and this rank
                        // does not accept it.
                        if !accepted.is_some_and(|old| self.is_there(&self.go_key(&old))) {
                            self.store.set(&self.ack_key(&id, self.rank), b"", self.grace())?;
                            self.acked.borrow_mut().push(id);
                            accepted = Some(id);
                        }
                        continue;
                    }
                    None => {
                        self.check_failure(&session)?;
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(20));
                    }
                }
            }
            self.check_lost(&lost, |r| match accepted {
                _ if r == self.leader => false,
                Some(id) => self.is_there(&self.ack_key(&id, r)),
                None => self.is_there(&self.hello_key(r)),
            })?;
            if accepted.is_none() && earlier.is_none() && Instant::now() >= self.quarter {
                earlier = Some((Instant::now(), self.greetings(Instant::now())?));
            }
            if self.is_late() {
                return Err(match accepted {
                    Some(id) => self.not_agreed(&id),
                    None => self.not_led(earlier)?,
                });
            }
        }
    }

    /// Returns the error of a rank that accepted a session for which the leader has not written `go` by the deadline.
    fn not_agreed(&self, id: &Nonce) -> Error {
        let silent = self.absent(|r| if r == self.leader { self.go_key(id) } else { self.ack_key(id, r) });
        let others: Vec<u32> = silent.iter().copied().filter(|r| *r != self.leader).collect();
        let e = Error::new(ErrorKind::Rendezvous, "the leader did not confirm the group in time");
        // If other ranks have not acknowledged, the leader waits for those ranks, so they are the guilty ranks.
        self.missing(if others.is_empty() { silent } else { others }, &e)
    }

    /// Returns the error of a rank that is in no session at the deadline. `earlier` has the hellos that this rank has
    /// read before, and the time at which it read them. A hello that has had no heartbeat since then is of an earlier
    /// run, so its rank is absent.
    fn not_led(&self, earlier: Option<(Instant, Hellos)>) -> Result<Error> {
        self.is_mine()?;
        self.agrees_with(self.leader)?;
        let now = self.greetings(Instant::now())?;
        let mut absent: Vec<u32> = self.ranks().filter(|r| now[*r as usize].is_none()).collect();
        if let Some((since, then)) = earlier {
            let still = self.ranks().zip(now.iter().zip(&then)).filter_map(|(r, (now, then))| {
                let hello = Hello::decode(now.as_ref()?);
                let beat = Duration::from_millis(hello.map_or(0, |hello| hello.every).into());
                (now == then && since.elapsed() > beat * 3).then_some(r)
            });
            absent.extend(still.filter(|r| *r != self.rank));
        }
        absent.sort_unstable();
        let what = "the leader (the rank with the lowest number) did not join the group in time, or does not expect \
            this rank; check that all ranks were started with the same store, world size and group name";
        Ok(self.missing(absent, &Error::new(ErrorKind::Rendezvous, what).guilty([self.leader])))
    }

    /// Returns the id of the session if it lists this rank's nonce.
    fn accept(&self, session: &[u8]) -> Option<Nonce> {
        let (id, nonces) = session.split_first_chunk::<16>()?;
        nonces.chunks_exact(16).any(|n| n == self.hello.nonce).then_some(*id)
    }

    /// Returns the error if `session` is a failure that the leader has written for this rank.
    fn check_failure(&self, session: &[u8]) -> Result {
        let Some(text) = std::str::from_utf8(session).ok().and_then(|t| t.strip_prefix("failed:")) else {
            return Ok(());
        };
        let mut parts = text.splitn(4, ':');
        let mut list = || parts.next().unwrap_or("").split(',');
        let mine = hex(&self.hello.nonce);
        // Only in a group without a parent can the failure be of an earlier run: the keys of a sub-group contain the
        // session id of its parent.
        let for_me = list().any(|n| n == mine);
        if self.first && !for_me {
            return Ok(());
        }
        let ids: Vec<u32> = list().filter_map(|g| g.parse().ok()).collect();
        let guilty: Vec<u32> = self.ranks().filter(|r| ids.contains(&self.ids[*r as usize])).collect();
        match parts.next() {
            Some(DEAD) => return Err(self.lost_error(guilty)),
            Some(DIFFER) => {
                // This rank compares the hellos itself, since its error must have this rank's value before the other
                // rank's value.
                self.agrees_with(self.leader)?;
                guilty.iter().filter(|r| **r != self.rank).try_for_each(|r| self.agrees_with(*r))?;
            }
            _ => {}
        }
        let what = harmless(parts.next().unwrap_or("no reason given"), 1024);
        Err(Error::new(ErrorKind::Rendezvous, format!("the leader could not make the group: {what}")).guilty(guilty))
    }

    /// Checks that the hello of `rank`, if the store has it, describes the same group as this rank's hello.
    fn agrees_with(&self, rank: u32) -> Result {
        let (key, until) = (self.hello_key(rank), Instant::now() + NAMING);
        match self.store.check(&[&key], until) {
            Ok(true) => self.hello.agrees(&self.store.get(&key, until)?, rank),
            _ => Ok(()),
        }
    }
}
