//! What connects the ranks of a group, and knows their health.
//!
//! Each rank publishes a [`hello`] in the store and reads everybody's; then each pair connects ([`dial`], [`accept`]),
//! by shared memory or TCP, and all learn how all others are connected ([`topology`]). From then on the store is not
//! needed. [`health`] lives as long as the group: it knows whether a peer died, left, stopped or called something else,
//! and sees to it that all ranks know.

mod accept;
mod addr;
mod board;
mod connection;
mod control;
mod dial;
mod handshake;
mod health;
mod hello;
mod host;
mod local;
mod netlink;
mod socket;
mod topology;
mod verdict;
mod watch;
mod wire;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Phase, Result, Store};

pub(crate) use health::Health;
pub(crate) use topology::Topology;

use accept::Door;
use control::{Decoder, Frame, Revoke};
use dial::{Join, Pair};
use hello::Hello;
use host::HostId;
use local::Seat;

use crate::link::Link;
use crate::shm::{Lane, Layout, Segment, ShmLink};
use crate::tcp::{self, TcpLink};

/// Which way bytes may take between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Transport {
    /// Shared memory within a host, where it can be had; TCP otherwise.
    #[default]
    Auto,
    /// Shared memory or an error.
    Shm,
    /// TCP even within a process.
    Tcp,
}

impl Transport {
    /// Its name, as users write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Transport::Auto => "auto",
            Transport::Shm => "shm",
            Transport::Tcp => "tcp",
        }
    }

    /// The transport of this name.
    pub(crate) fn from_name(name: &str) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].into_iter().find(|t| t.name() == name)
    }

    fn from_code(code: u8) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].get(usize::from(code)).copied()
    }
}

/// What a rank needs to find the others.
pub(crate) struct Wiring {
    /// The group's name.
    pub(crate) group: Arc<str>,
    /// The own rank.
    pub(crate) rank: u32,
    /// How many ranks there are.
    pub(crate) size: u32,
    /// Random, the same on all ranks, another one for every group of every run.
    pub(crate) session: [u8; 16],
    /// A part of a store that belongs to this group and session alone.
    pub(crate) store: Arc<dyn Store>,
    /// The way bytes may take.
    pub(crate) transport: Transport,
    /// When all must be connected.
    pub(crate) deadline: Instant,
}

/// The connected ranks of a group.
pub(crate) struct Mesh {
    /// First, so that it is dropped first: peers hear the goodbye before their links break.
    pub(crate) membership: Membership,
    /// For collectives, one per peer; none for the own rank.
    pub(crate) collective: Vec<Option<Link>>,
    /// For point-to-point ops, likewise.
    pub(crate) p2p: Vec<Option<Link>>,
    /// Who is where.
    pub(crate) topology: Topology,
    /// The own segment, with the doorbell; `None` where no peer shares memory with this rank.
    pub(crate) segment: Option<Arc<Segment>>,
    /// All ranks on this host, the own one included, ascending.
    pub(crate) local_ranks: Vec<u32>,
    /// The group's health.
    pub(crate) health: Arc<Health>,
}

/// Being part of the group: its drop tells the peers that this rank leaves in good order.
pub(crate) struct Membership(Arc<Health>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Mesh {
    /// Connects the ranks. Every rank calls it, and it ends by the deadline; an error names the ranks that are missing
    /// or at odds, and reaches those that are connected already.
    pub(crate) fn connect(wiring: Wiring) -> Result<Mesh> {
        if wiring.rank >= wiring.size {
            let what = format!("rank {} in a group of {}: ranks go from 0 to size - 1", wiring.rank, wiring.size);
            return Err(Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous));
        }
        let health = Health::new(wiring.group.clone(), wiring.rank, wiring.size);
        let membership = Membership(health.clone());
        let joined = if wiring.size == 1 { Ok(alone()) } else { join(&wiring, &health) };
        match joined {
            Ok(parts) => Ok(parts.into_mesh(wiring.rank, health, membership)),
            Err(error) => Err(health.fail(error)),
        }
    }
}

/// What a join makes.
struct Parts {
    topology: Topology,
    segment: Option<Arc<Segment>>,
    pairs: Vec<Pair>,
}

fn alone() -> Parts {
    Parts { topology: Topology::new(vec![0], vec![vec![0]]), segment: None, pairs: vec![Pair::default()] }
}

fn join(wiring: &Wiring, health: &Arc<Health>) -> Result<Parts> {
    let (mut door, mine) = open(wiring.transport, wiring.size)?;
    // While the door is still open: nobody fails for finding it closed before the cause is known.
    join_at(&mut door, &mine, wiring, health).map_err(|error| first_failure(wiring, error))
}

/// The first failure of all ranks that fail to join, if it is known and this one is not a cause of its own.
fn first_failure(wiring: &Wiring, error: Error) -> Error {
    let mut record = Vec::from(wiring.rank.to_le_bytes());
    record.extend(Frame::Revoke(Box::new(Revoke::of(&error, None))).to_bytes());
    let soon = Instant::now() + Duration::from_millis(200);
    let Ok(stored) = wiring.store.compare_set("mesh/failed", &[], &record, soon) else { return error };
    if stored == record || *error.kind() != ErrorKind::Rendezvous {
        return error;
    }
    let Some((by, frame)) = stored.split_first_chunk() else { return error };
    let mut decoder = Decoder::default();
    decoder.push(frame);
    match decoder.next() {
        Ok(Some(Frame::Revoke(revoke))) => verdict::retell(wiring.rank, u32::from_le_bytes(*by), &revoke),
        _ => error,
    }
}

fn join_at(door: &mut Door, mine: &Hello, wiring: &Wiring, health: &Arc<Health>) -> Result<Parts> {
    let Wiring { group, rank, size, session, store, transport, deadline } = wiring;
    let (rank, size, transport) = (*rank, *size, *transport);
    let hellos = hello::exchange(&**store, mine, rank, *deadline)?;

    let ids: Vec<HostId> = hellos.iter().map(|h| h.host).collect();
    let hosts = host::number(&ids);
    let local: Vec<u32> = (0..size).filter(|r| hosts[*r as usize] == hosts[rank as usize]).collect();
    let layout = Layout::new(local.len() - 1);
    let (segment, unshared) = match make_segment(transport, &local, layout) {
        Ok(segment) => (segment, None),
        Err(error) => (None, Some(error)),
    };
    let seat = Seat { health: Arc::downgrade(health), segment: segment.clone() };
    let presence = local::sit(*session, group, rank, seat);

    // What remains is for telling each other who is missing.
    let left = deadline.saturating_duration_since(Instant::now());
    let connect_by = *deadline - (left / 10).min(Duration::from_secs(1));
    let join = Join {
        rank,
        size,
        session: *session,
        group: wire::hash(group.as_bytes()),
        transport,
        health,
        hellos: &hellos,
        segment: segment.clone(),
        layout,
        deadline: connect_by,
    };
    let pairs = join.run(door, &presence).map_err(|error| unshared.unwrap_or(error))?;
    let shm = agree(wiring, health, &pairs)?;
    // All have read it.
    let _ = store.delete(&format!("mesh/{rank}"), *deadline);
    let segment = segment.filter(|_| pairs.iter().any(|p| p.segment.is_some()));
    Ok(Parts { topology: Topology::new(hosts, shm), segment, pairs })
}

/// Opens what peers connect to, and describes this rank.
fn open(transport: Transport, size: u32) -> Result<(Door, Hello)> {
    let process = local::process_token()?;
    let mut unix = None;
    let mut name = String::new();
    if transport != Transport::Tcp {
        let random: String = local::random()?.iter().map(|b| format!("{b:02x}")).collect();
        name = format!("c10d-{random}");
        match socket::listen_unix(&name) {
            Ok(fd) => unix = Some(fd),
            Err(e) => {
                let error =
                    Error::new(ErrorKind::Resource, "cannot listen on a UNIX socket").source(e).phase(Phase::Connect);
                if transport == Transport::Shm {
                    return Err(error);
                }
                tracing::warn!("no shared memory with other processes: {error}");
                name.clear();
            }
        }
    }
    let listeners = if transport == Transport::Shm { Vec::new() } else { listen(transport)? };
    let tcp = listeners.iter().map(tcp::Listener::address).collect::<Result<_>>()?;
    let hello =
        Hello { host: HostId::here(process), pid: std::process::id(), process, transport, size, unix: name, tcp };
    Ok((Door::new(unix, listeners), hello))
}

/// One listening socket per address. Addresses that do not work are left out as long as one does.
fn listen(transport: Transport) -> Result<Vec<tcp::Listener>> {
    let wish = addr::Wish::from_env();
    let explicit = wish.addr.is_some() || wish.interface.is_some();
    let mut listeners = Vec::new();
    let mut last = None;
    for ip in addr::choose(&wish)? {
        match tcp::Listener::bind(ip) {
            Ok(listener) => listeners.push(listener),
            Err(e) => last = Some(e),
        }
    }
    match last {
        Some(e) if listeners.is_empty() && (explicit || transport == Transport::Tcp) => Err(e),
        Some(e) if listeners.is_empty() => {
            tracing::warn!("no connections over TCP: {e}");
            Ok(listeners)
        }
        _ => Ok(listeners),
    }
}

/// The own segment. Where none can be had, TCP takes its place, with a warning.
fn make_segment(transport: Transport, local: &[u32], layout: Layout) -> Result<Option<Arc<Segment>>> {
    if transport == Transport::Tcp || local.len() < 2 {
        return Ok(None);
    }
    match Segment::create(layout) {
        Ok(segment) => Ok(Some(Arc::new(segment))),
        Err(e) if transport == Transport::Shm => Err(e.phase(Phase::Connect)),
        Err(e) => {
            tracing::warn!("this rank uses TCP instead of shared memory: {e}");
            Ok(None)
        }
    }
}

/// Tells all how this rank's pairs turned out, and waits for everybody's word.
fn agree(wiring: &Wiring, health: &Health, pairs: &[Pair]) -> Result<Vec<Vec<u8>>> {
    const SLICE: Duration = Duration::from_millis(500);
    let key = |rank: u32| format!("mesh/ok/{rank}");
    let bits = topology::bits(wiring.size, |r| pairs[r as usize].segment.is_some());
    let rendezvous = |e: Error| e.phase(Phase::Rendezvous);
    wiring.store.set(&key(wiring.rank), &bits, wiring.deadline).map_err(rendezvous)?;
    let keys: Vec<String> = (0..wiring.size).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    loop {
        let slice = wiring.deadline.min(Instant::now() + SLICE);
        let waited = wiring.store.wait(&keys, slice);
        match waited {
            // All are connected: what goes wrong from here on is a matter of the group's life.
            Ok(()) => break,
            Err(_) if health.failed() => health.check()?,
            Err(_) if slice == wiring.deadline => break,
            Err(e) if Instant::now() + SLICE / 10 < slice => return Err(rendezvous(e)),
            Err(_) => {}
        }
    }
    hello::gather(&*wiring.store, key, wiring.size, wiring.deadline, "did not get connected to all others")
}

impl Parts {
    fn into_mesh(self, rank: u32, health: Arc<Health>, membership: Membership) -> Mesh {
        let Parts { topology, segment, pairs } = self;
        let local_ranks = topology.local_ranks(rank);
        if let Some(segment) = segment.clone() {
            health.on_news(Box::new(move || segment.ring_bell()));
        }
        // Where a rank lies in the segment of another: its place among that one's peers on the host.
        let index = |of: u32, within: u32| local_ranks.iter().filter(|r| **r != within && **r < of).count();
        let (mut collective, mut p2p) = (Vec::new(), Vec::new());
        for (peer, pair) in (0..).zip(pairs) {
            if pair.segment.is_none() {
                health.uses_tcp(peer);
            }
            let link = |lane, fd: Option<std::os::fd::OwnedFd>| match (&segment, &pair.segment) {
                (Some(own), Some(theirs)) => Some(Link::Shm(ShmLink::new(
                    peer,
                    lane,
                    (own.clone(), index(peer, rank)),
                    (theirs.clone(), index(rank, peer)),
                ))),
                _ => fd.map(|fd| Link::Tcp(TcpLink::new(TcpStream::from(fd), peer))),
            };
            collective.push(link(Lane::Collective, pair.collective));
            p2p.push(link(Lane::PointToPoint, pair.p2p));
        }
        Mesh { membership, collective, p2p, topology, segment, local_ranks, health }
    }
}

#[cfg(test)]
mod tests;
