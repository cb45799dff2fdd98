//! Connects each pair of ranks: the higher rank dials the lower.
//!
//! Ranks that are threads of one process find each other in a table, unless the transport is tcp. All other ranks of
//! one host connect over a UNIX socket. Over this socket they exchange descriptors of their processes and, unless the
//! transport is tcp, their segments. Then the socket becomes the control connection. All remaining pairs use TCP for
//! the control connection. Pairs that share no segments use TCP for the payload.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::Reports;
use c10d_core::shm::peer_process;
use c10d_core::{Error, ErrorKind, Phase, Result};
use rustix::io::Errno;

use super::accept::{Guest, JoinListener};
use super::addr;
use super::connection::Connection;
use super::handshake::{Handshake, Purpose};
use super::health::{Health, Path};
use super::hello::Hello;
use super::local::Presence;
use super::socket::{Patience, Socket, Trouble, dial_unix};
use super::wiring::{Lost, Transport};
use crate::shm::{Layout, Segment};
use crate::tcp;

/// How long this rank tries one of several addresses.
const TURN: Duration = Duration::from_secs(1);

/// The data that all connections of a joining rank share.
pub(super) struct Join<'a> {
    pub(super) rank: u32,
    pub(super) size: u32,
    pub(super) session: [u8; 16],
    pub(super) group: u64,
    pub(super) transport: Transport,
    pub(super) health: &'a Arc<Health>,
    pub(super) hellos: &'a [Hello],
    pub(super) segment: Option<Arc<Segment>>,
    /// A descriptor of this process, for the peers to watch, if the operating system provides one.
    pub(super) life: Option<OwnedFd>,
    pub(super) layout: Layout,
    pub(super) deadline: Instant,
    /// See [`Wiring::silence`](super::wiring::Wiring::silence).
    pub(super) silence: Duration,
    /// See [`Wiring`](super::wiring::Wiring).
    pub(super) lost: &'a Lost,
    /// See [`Wiring`](super::wiring::Wiring).
    pub(super) reports: &'a Reports,
}

/// The connections between this rank and a peer.
#[derive(Default)]
pub(super) struct Pair {
    /// Whether this rank has a control path to the peer.
    controlled: bool,
    /// The peer's segment, if the pair shares memory. Otherwise the pair has the two connections below.
    pub(super) segment: Option<Arc<Segment>>,
    pub(super) collective: Option<Socket>,
    pub(super) p2p: Option<Socket>,
}

impl Pair {
    fn complete(&self) -> bool {
        self.controlled && (self.segment.is_some() || (self.collective.is_some() && self.p2p.is_some()))
    }

    fn slot(&mut self, purpose: Purpose) -> &mut Option<Socket> {
        if purpose == Purpose::Collective { &mut self.collective } else { &mut self.p2p }
    }
}

/// The control path of a pair.
#[derive(PartialEq)]
enum Route {
    Here,
    Unix,
    Tcp,
}

impl Join<'_> {
    /// Connects to every peer. Returns one [`Pair`] per rank; this rank's own is empty.
    pub(super) fn run(&self, listener: &mut JoinListener, presence: &Presence) -> Result<Vec<Pair>> {
        let mut pairs: Vec<Pair> = (0..self.size).map(|_| Pair::default()).collect();
        for (peer, pair) in (0..).zip(&mut pairs).filter(|(peer, _)| *peer != self.rank) {
            if self.route(peer)? == Route::Here {
                self.meet(peer, pair, presence)?;
            }
        }
        for (peer, pair) in (0..self.rank).zip(&mut pairs) {
            self.dial(peer, pair)?;
        }
        self.receive(listener, &mut pairs)?;
        Ok(pairs)
    }

    fn route(&self, peer: u32) -> Result<Route> {
        let (mine, theirs) = (&self.hellos[self.rank as usize], &self.hellos[peer as usize]);
        let same_host = mine.host == theirs.host;
        match self.transport {
            Transport::Auto | Transport::Shm if mine.process == theirs.process => Ok(Route::Here),
            _ if same_host && !mine.unix.is_empty() && !theirs.unix.is_empty() => Ok(Route::Unix),
            Transport::Auto | Transport::Tcp => Ok(Route::Tcp),
            Transport::Shm => {
                let why = mine.host.apart(&theirs.host).unwrap_or_else(|| "have no UNIX socket between them".into());
                Err(self.unshared(peer, &why))
            }
        }
    }

    fn unshared(&self, peer: u32, why: &str) -> Error {
        let (a, b) = (self.rank.min(peer), self.rank.max(peer));
        let what = format!("ranks {a} and {b} {why}, and the transport shm cannot connect them: use auto or tcp");
        Error::new(ErrorKind::Rendezvous, what).guilty([peer]).phase(Phase::Connect)
    }

    fn stopped(&self) -> bool {
        self.health.fail_if_lost(&(self.lost)());
        if let Some(error) = self.reports.failure() {
            self.health.fail(error);
        }
        self.health.failed()
    }

    /// Returns the cause of the group's failure if the group has failed, otherwise `error`.
    fn or_cause(&self, error: Error) -> Error {
        self.health.cause().unwrap_or(error)
    }

    fn trouble(&self, peer: u32, trouble: Trouble) -> Error {
        let what = format!("cannot connect to rank {peer}: {trouble}");
        let error = Error::new(ErrorKind::Rendezvous, what).guilty([peer]).phase(Phase::Connect);
        match trouble {
            Trouble::Os(e) => self.or_cause(error.caused_by(e)),
            // This rank ran out of a resource, so the peer is not at fault.
            Trouble::Unmapped(e) => self.or_cause(e.phase(Phase::Connect)),
            _ => self.or_cause(error),
        }
    }

    fn meet(&self, peer: u32, pair: &mut Pair, presence: &Presence) -> Result {
        let seat = presence.meet(peer, self.deadline, || {
            self.stopped();
            self.health.check()
        })?;
        let seat = seat.ok_or_else(|| self.trouble(peer, Trouble::Late))?;
        self.health.reach(peer, Path::Here(seat.health));
        pair.controlled = true;
        pair.segment = self.segment.as_ref().and(seat.segment);
        self.require_shm(peer, pair)
    }

    fn require_shm(&self, peer: u32, pair: &Pair) -> Result {
        if self.transport == Transport::Shm && pair.segment.is_none() {
            return Err(self.unshared(peer, "share no memory (one of them could not make or map a segment)"));
        }
        Ok(())
    }

    fn dial(&self, peer: u32, pair: &mut Pair) -> Result {
        let stop = || self.stopped();
        let patience = Patience { deadline: self.deadline, stop: &stop };
        let mut good = None;
        if self.route(peer)? == Route::Unix {
            match self.dial_unix(peer, &patience) {
                Ok(fd) => self.control(peer, pair, fd, true, &patience)?,
                // The two hosts only look the same, for example because both were restored from one snapshot.
                Err(Trouble::Os(Errno::CONNREFUSED)) if self.transport != Transport::Shm => {
                    tracing::warn!("rank {peer} seems to be on this host, but its UNIX socket is not here: using TCP");
                }
                Err(trouble) => return Err(self.trouble(peer, trouble)),
            }
        }
        if !pair.controlled {
            let stream = self.dial_tcp(peer, Purpose::Control, &mut good, &patience)?;
            self.control(peer, pair, stream, false, &patience)?;
        }
        if pair.segment.is_none() {
            for purpose in [Purpose::Collective, Purpose::PointToPoint] {
                *pair.slot(purpose) = Some(self.dial_tcp(peer, purpose, &mut good, &patience)?);
            }
        }
        Ok(())
    }

    fn handshake(&self, peer: u32, purpose: Purpose) -> Handshake {
        Handshake { purpose, session: self.session, group: self.group, from: self.rank, to: peer }
    }

    fn dial_unix(&self, peer: u32, patience: &Patience<'_>) -> Result<Socket, Trouble> {
        let fd = dial_unix(&self.hellos[peer as usize].unix, patience)?;
        self.introduce(&fd, peer, Purpose::Control, patience)?;
        Ok(fd)
    }

    /// Sends the handshake, and checks that the right rank answers.
    fn introduce(
        &self,
        fd: &impl std::os::fd::AsFd,
        peer: u32,
        purpose: Purpose,
        patience: &Patience<'_>,
    ) -> Result<(), Trouble> {
        let mine = self.handshake(peer, purpose);
        patience.write_all(fd, &mine.to_bytes())?;
        let mut answer = [0; Handshake::SIZE];
        patience.read_exact(fd, &mut answer)?;
        if Handshake::from_bytes(&answer) == Ok(mine.answer()) { Ok(()) } else { Err(Trouble::Os(Errno::PROTO)) }
    }

    /// Tries the peer's addresses in turn, or only `good` if a connection to it has succeeded before.
    fn dial_tcp(
        &self,
        peer: u32,
        purpose: Purpose,
        good: &mut Option<SocketAddr>,
        patience: &Patience<'_>,
    ) -> Result<Socket> {
        let (mine, theirs) = (&self.hellos[self.rank as usize], &self.hellos[peer as usize]);
        let all = addr::order(&theirs.tcp, mine.host.shares_network(&theirs.host));
        let list = good.map_or(all, |a| vec![a]);
        let named: Vec<String> = list.iter().map(SocketAddr::to_string).collect();
        let refuse = |last: &str| {
            let what = match named.is_empty() {
                true => format!(
                    "rank {peer} has no address that rank {} can reach: set C10D_SOCKET_IFNAME or C10D_SOCKET_ADDR on rank \
                     {peer}",
                    self.rank
                ),
                false => format!(
                    "cannot connect to rank {peer} at {}: {last}; to choose another address, set C10D_SOCKET_IFNAME or \
                     C10D_SOCKET_ADDR on rank {peer}",
                    named.join(", ")
                ),
            };
            self.or_cause(Error::new(ErrorKind::Rendezvous, what).guilty([peer]).phase(Phase::Connect))
        };
        let mut last = String::new();
        while !list.is_empty() && Instant::now() < self.deadline && !self.stopped() {
            for address in &list {
                let turn = if list.len() == 1 { self.deadline } else { self.deadline.min(Instant::now() + TURN) };
                match tcp::dial(*address, turn.min(Instant::now() + TURN)) {
                    Ok(stream) => {
                        let socket = Socket::from(OwnedFd::from(stream));
                        match self.introduce(&socket, peer, purpose, patience) {
                            Ok(()) => {
                                *good = Some(*address);
                                return Ok(socket);
                            }
                            Err(trouble) => last = trouble.to_string(),
                        }
                    }
                    Err(e) if *e.kind() == ErrorKind::Resource => return Err(self.or_cause(e)),
                    Err(e) => last = e.report().source.as_ref().map_or_else(|| e.to_string(), |s| s.to_string()),
                }
                if self.stopped() || Instant::now() >= self.deadline {
                    return Err(refuse(&last));
                }
            }
        }
        Err(refuse(&last))
    }

    /// Sets up the control connection to a peer. Over a UNIX socket, first exchanges segments and descriptors of the
    /// processes.
    fn control(&self, peer: u32, pair: &mut Pair, fd: Socket, unix: bool, patience: &Patience<'_>) -> Result {
        let mut life = None;
        if unix {
            (pair.segment, life) = self.swap(&fd, peer, patience).map_err(|trouble| self.trouble(peer, trouble))?;
        }
        self.require_shm(peer, pair)?;
        if !unix {
            tcp::end_when_silent(&fd, self.silence).map_err(|e| {
                let what = format!("the connection to rank {peer} cannot be watched for silence");
                Error::new(ErrorKind::Resource, what).caused_by(e).phase(Phase::Connect)
            })?;
        }
        let connection = Connection::open(fd, life, peer, Arc::<Health>::downgrade(self.health))?;
        self.health.reach(peer, Path::Away(connection));
        pair.controlled = true;
        Ok(())
    }

    /// Exchanges segments and descriptors of the processes with a peer. Each rank sends the descriptors that it has,
    /// and reports whether it could map the peer's segment. The segments are used only if both ranks could map them. A
    /// descriptor of the process is sent, since a process id is valid only in its PID namespace, and may have been
    /// reused.
    fn swap(
        &self,
        socket: &Socket,
        peer: u32,
        patience: &Patience<'_>,
    ) -> Result<(Option<Arc<Segment>>, Option<OwnedFd>), Trouble> {
        let own = self.segment.as_ref();
        patience.offer(socket, [own.map(|s| s.fd()), self.life.as_ref().map(AsFd::as_fd)])?;
        let [theirs, life] = patience.accept_offer(socket)?;
        let theirs = own.and(theirs);
        let mut unmapped = None;
        let mapped = theirs.and_then(|fd| match Segment::attach(fd, self.layout) {
            Ok(segment) => Some(Arc::new(segment.of_process(peer_process(socket)))),
            Err(e) => {
                tracing::warn!("rank {peer}'s segment cannot be used: {e:?}");
                unmapped = Some(e).filter(|e| *e.kind() == ErrorKind::Resource && self.transport == Transport::Shm);
                None
            }
        });
        if let Some(e) = unmapped {
            return Err(Trouble::Unmapped(e));
        }
        patience.write_all(socket, &[mapped.is_some().into()])?;
        let mut there = [0];
        patience.read_exact(socket, &mut there)?;
        Ok((mapped.filter(|_| there == [1]), life))
    }

    /// Accepts the connections of higher ranks until all of them are connected.
    fn receive(&self, listener: &mut JoinListener, pairs: &mut [Pair]) -> Result {
        let stop = || self.stopped();
        let patience = Patience { deadline: self.deadline, stop: &stop };
        loop {
            let missing: Vec<u32> = (self.rank + 1..self.size).filter(|r| !pairs[*r as usize].complete()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let welcome = |h: &Handshake| {
                h.objection(&self.session, self.group, self.rank, self.size).or_else(|| {
                    let pair = &pairs[h.from as usize];
                    let taken = match h.purpose {
                        Purpose::Control => pair.controlled,
                        Purpose::Collective => pair.collective.is_some(),
                        Purpose::PointToPoint => pair.p2p.is_some(),
                    };
                    taken.then_some("that rank is connected already")
                })
            };
            match listener.next(&patience, welcome)? {
                Some(guest) => self.admit(guest, pairs, &patience)?,
                None => {
                    if let Some(e) = listener.shut() {
                        return Err(self.or_cause(e));
                    }
                    let names: Vec<String> = missing.iter().map(u32::to_string).collect();
                    let what = format!("no connection from rank {} in time", names.join(", "));
                    return Err(
                        self.or_cause(Error::new(ErrorKind::Rendezvous, what).guilty(missing).phase(Phase::Connect))
                    );
                }
            }
        }
    }

    fn admit(&self, guest: Guest, pairs: &mut [Pair], patience: &Patience<'_>) -> Result {
        let Handshake { from, purpose, .. } = guest.handshake;
        let pair = &mut pairs[from as usize];
        if patience.write_all(&guest.fd, &guest.handshake.answer().to_bytes()).is_err() {
            // The connection is gone. The rank will connect again, or be missing at the deadline.
            return Ok(());
        }
        match purpose {
            Purpose::Control => self.control(from, pair, guest.fd, guest.unix, patience),
            purpose => {
                *pair.slot(purpose) = Some(guest.fd);
                Ok(())
            }
        }
    }
}
