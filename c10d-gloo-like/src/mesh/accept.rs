//! Accepts the connections of ranks that dial this rank, and refuses all other connections.
//!
//! A connection is a stranger until its handshake is complete and correct. The number of strangers is limited, and each
//! is closed after five seconds. Strangers do not delay ranks.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use c10d_core::shm::is_same_user;
use c10d_core::{Error, ErrorKind, Phase, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use super::handshake::Handshake;
use super::socket::{LOOK, Patience, Socket, timespec};
use crate::tcp;

/// How long a stranger may take to send its handshake.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// The largest number of strangers. A further stranger closes the oldest, which is probably no rank, because ranks send
/// their handshake at once.
const STRANGERS: usize = 128;
/// How long this rank accepts no connections after an error of accepting one.
const PAUSE: Duration = Duration::from_millis(20);
/// How long this rank tolerates errors of accepting connections. Usually no descriptor is free, and other parts of the
/// process may free some.
const SCARCE: Duration = Duration::from_secs(1);

/// The listeners of this rank while it joins.
pub(super) struct JoinListener {
    pub(super) unix: Option<Socket>,
    pub(super) tcp: Vec<tcp::Listener>,
    strangers: Vec<Stranger>,
    /// The end of the current [`PAUSE`].
    closed_until: Option<Instant>,
    /// The first error of accepting connections since an attempt last had no error or accepted one, and the time of
    /// this error.
    scarce: Option<(Instant, Error)>,
}

struct Stranger {
    fd: Socket,
    unix: bool,
    bytes: [u8; Handshake::SIZE],
    /// The number of bytes of the handshake that have arrived.
    got: usize,
    /// The time at which the stranger is closed.
    until: Instant,
}

/// A rank's connection with a correct handshake, which this rank has not answered.
pub(super) struct Guest {
    pub(super) fd: Socket,
    pub(super) unix: bool,
    pub(super) handshake: Handshake,
}

impl JoinListener {
    pub(super) fn new(unix: Option<Socket>, tcp: Vec<tcp::Listener>) -> JoinListener {
        JoinListener { unix, tcp, strangers: Vec::new(), closed_until: None, scarce: None }
    }

    /// Returns the next connection to whose handshake `welcome` does not object. `None` at the deadline, or when the
    /// join has failed.
    pub(super) fn next(
        &mut self,
        patience: &Patience<'_>,
        welcome: impl Fn(&Handshake) -> Option<&'static str>,
    ) -> Result<Option<Guest>> {
        loop {
            if let Some(guest) = self.introduced(&welcome) {
                return Ok(Some(guest));
            }
            let now = Instant::now();
            if (patience.stop)() || now >= patience.deadline {
                return Ok(None);
            }
            self.wait(patience.deadline.saturating_duration_since(now))?;
            self.admit()?;
        }
    }

    /// Returns the first error of accepting connections, if every attempt since then had an error and accepted none.
    pub(super) fn shut(&self) -> Option<Error> {
        self.scarce.as_ref().map(|(_, error)| error.clone())
    }

    /// Records an error of accepting connections. If the error in `scarce` is [`SCARCE`] ago, returns that error.
    fn shut_for(&mut self, now: Instant, error: Error) -> Result {
        self.closed_until = Some(now + PAUSE);
        let (since, error) = self.scarce.get_or_insert((now, error));
        if now.duration_since(*since) < SCARCE { Ok(()) } else { Err(error.clone()) }
    }

    /// Sleeps until an event occurs, for at most 50 ms.
    fn wait(&mut self, left: Duration) -> Result {
        let now = Instant::now();
        let mut slice = left.min(LOOK);
        let mut set: Vec<PollFd<'_>> = self.strangers.iter().map(|s| PollFd::new(&s.fd, PollFlags::IN)).collect();
        match self.closed_until.filter(|t| *t > now) {
            Some(until) => slice = slice.min(until - now),
            None => {
                set.extend(self.unix.iter().map(|l| PollFd::new(l, PollFlags::IN)));
                set.extend(self.tcp.iter().map(|l| PollFd::from_borrowed_fd(l.fd(), PollFlags::IN)));
            }
        }
        match poll(&mut set, Some(&timespec(slice))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(refused("waiting for peers failed").caused_by(e)),
        }
    }

    /// Accepts pending connections. If the UNIX listener lacks descriptors or memory, or a TCP listener has any error,
    /// this rank accepts no connections for [`PAUSE`].
    fn admit(&mut self) -> Result {
        let now = Instant::now();
        if self.closed_until.is_some_and(|t| t > now) {
            return Ok(());
        }
        self.closed_until = None;
        let mut came: Vec<(Socket, bool)> = Vec::new();
        let mut lack = None;
        if let Some(unix) = &self.unix {
            match accept_with(unix, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) if is_same_user(&fd) => came.push((fd.into(), true)),
                Ok(_) => tracing::debug!("a process of another user was turned away"),
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    lack = Some(refused("cannot accept a peer's connection").caused_by(e));
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => return Err(refused("accepting a connection failed").caused_by(e)),
            }
        }
        for listener in &self.tcp {
            match listener.accept(now) {
                Ok(Some((stream, _))) => came.push((Socket::from(OwnedFd::from(stream)), false)),
                Ok(None) => {}
                Err(e) => lack = Some(e),
            }
        }
        // The system takes a descriptor before it looks for a connection. So one was free, even if none has come.
        if lack.is_none() || !came.is_empty() {
            self.scarce = None;
        }
        if let Some(error) = lack {
            self.shut_for(now, error)?;
        }
        for (fd, unix) in came {
            if self.strangers.len() >= STRANGERS {
                self.strangers.remove(0);
            }
            let until = now + INTRODUCTION;
            self.strangers.push(Stranger { fd, unix, bytes: [0; Handshake::SIZE], got: 0, until });
        }
        Ok(())
    }

    /// Reads from the strangers. Returns the first stranger to which `welcome` does not object, and closes those to
    /// which it objects.
    fn introduced(&mut self, welcome: impl Fn(&Handshake) -> Option<&'static str>) -> Option<Guest> {
        let now = Instant::now();
        let mut guest = None;
        let mut i = 0;
        while i < self.strangers.len() && guest.is_none() {
            match self.strangers[i].listen(now) {
                Ok(None) => i += 1,
                Err(why) => {
                    tracing::debug!("a connection was dropped: {why}");
                    self.strangers.remove(i);
                }
                Ok(Some(handshake)) => {
                    let stranger = self.strangers.remove(i);
                    match welcome(&handshake) {
                        Some(why) => tracing::debug!("a connection was dropped: {why}"),
                        None => guest = Some(Guest { fd: stranger.fd, unix: stranger.unix, handshake }),
                    }
                }
            }
        }
        guest
    }
}

impl Stranger {
    fn listen(&mut self, now: Instant) -> Result<Option<Handshake>, &'static str> {
        while self.got < self.bytes.len() {
            match recv(&self.fd, &mut self.bytes[self.got..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err("it ended before its handshake"),
                Ok((n, _)) => self.got += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if now < self.until => return Ok(None),
                Err(Errno::AGAIN) => return Err("it sent no complete handshake within 5 s"),
                Err(_) => return Err("it broke before its handshake"),
            }
        }
        Handshake::from_bytes(&self.bytes).map(Some)
    }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::Resource, what).phase(Phase::Connect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::socket::{dial_unix, listen_unix};
    use rustix::net::{Shutdown, shutdown};

    /// Makes listeners whose last attempts to accept a connection failed, since a time that is no longer tolerated.
    fn lacking(name: &str, tcp: Vec<tcp::Listener>) -> JoinListener {
        let mut listener = JoinListener::new(Some(listen_unix(name).unwrap()), tcp);
        listener.scarce = Some((Instant::now() - 2 * SCARCE, refused("the first lack")));
        listener
    }

    fn name(test: &str) -> String {
        format!("c10d-test-{test}-{}", std::process::id())
    }

    #[test]
    fn a_lack_ends_although_no_connection_comes() {
        let mut listener = lacking(&name("lack-ends"), Vec::new());
        listener.admit().unwrap();
        assert!(listener.shut().is_none(), "an attempt without an error shows that a descriptor is free");
        listener.shut_for(Instant::now(), refused("the second lack")).unwrap();
    }

    #[test]
    fn a_lack_begins_anew_after_each_connection() {
        let name = name("lack-anew");
        let broken = tcp::Listener::bind("127.0.0.1".parse().unwrap()).unwrap();
        shutdown(broken.fd(), Shutdown::Both).unwrap();
        let mut listener = lacking(&name, vec![broken]);
        let patience = Patience { deadline: Instant::now() + Duration::from_secs(20), stop: &|| false };
        let _peer = dial_unix(&name, &patience).unwrap();
        // The UNIX listener accepts the connection, and after that the other listener fails.
        listener.admit().unwrap();
        assert_eq!(listener.strangers.len(), 1);
        let what = listener.shut().unwrap().report().what.clone();
        assert!(what != "the first lack", "{what}");
    }
}
