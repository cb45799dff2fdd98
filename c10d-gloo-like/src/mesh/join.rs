//! The steps of a join: each rank publishes its hello, reads all hellos, connects to each rank, and publishes with
//! which ranks it shares memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::cores::Cores;
use c10d_core::host::{HostId, number};
use c10d_core::process::{Token, random, token};
use c10d_core::waiting::{Reminder, ranks_are};
use c10d_core::{Error, ErrorKind, Phase, Result};
use rustix::io::Errno;

use super::accept::JoinListener;
use super::dial::{Join, Pair};
use super::health::{self, Health};
use super::hello::{self, Hello};
use super::host;
use super::local::{self, Seat};
use super::topology::{self, Topology};
use super::wiring::{Transport, Tuning, Wiring};
use super::{addr, socket, wire};
use crate::shm::{Layout, Segment};
use crate::tcp;

pub(super) struct Connections {
    pub(super) topology: Topology,
    pub(super) segment: Option<Arc<Segment>>,
    pub(super) pairs: Vec<Pair>,
    /// The process of each rank, by rank.
    pub(super) processes: Vec<Token>,
    /// Whether the group's ranks on this host may have fewer cores than there are ranks.
    pub(super) oversubscribed: bool,
}

impl Connections {
    pub(super) fn alone() -> Connections {
        Connections {
            topology: Topology::new(vec![0], vec![vec![0]]),
            segment: None,
            pairs: vec![Pair::default()],
            processes: vec![Token::default()],
            oversubscribed: false,
        }
    }
}

pub(super) fn join(wiring: &Wiring, health: &Arc<Health>) -> Result<Connections> {
    let (mut listener, mine) =
        open(wiring.transport, wiring.size, &wiring.tuning).map_err(|error| wiring.reports.settle(error))?;
    // The error is reported while the listener is open. Otherwise a peer could find the listener closed before it
    // learns the cause.
    join_at(&mut listener, &mine, wiring, health).map_err(|error| wiring.reports.settle(error))
}

fn join_at(listener: &mut JoinListener, mine: &Hello, wiring: &Wiring, health: &Arc<Health>) -> Result<Connections> {
    let Wiring { group, rank, size, session, store, reports, transport, deadline, silence, lost, .. } = wiring;
    let (rank, size, transport) = (*rank, *size, *transport);
    let wait = || await_all(wiring, health, hello::key);
    let hellos = hello::exchange(&**store, mine, rank, *deadline, wait)?;

    let ids: Vec<HostId> = hellos.iter().map(|h| h.host).collect();
    let hosts = number(&ids, HostId::can_share_memory);
    let local: Vec<u32> = (0..size).filter(|r| hosts[*r as usize] == hosts[rank as usize]).collect();
    let layout = Layout::new(local.len() - 1);
    // Multicasts need all ranks on one host.
    let layout = if local.len() == size as usize { layout } else { layout.without_multicast() };
    let (segment, unshared) = match make_segment(transport, &local, layout, wiring.cma) {
        Ok(segment) => (segment, None),
        Err(error) => (None, Some(error)),
    };
    let seat = Seat { health: Arc::downgrade(health), segment: segment.clone() };
    let presence = local::sit(*session, group, rank, seat);

    // The last tenth of the time, at most 1 s, is for reports of which ranks are missing.
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
        life: host::own_process()
            .map_err(|e| scarce("cannot make a descriptor of this process, which the peers watch", e))?,
        layout,
        deadline: connect_by,
        silence: *silence,
        lost,
        reports,
    };
    let pairs = join.run(listener, &presence).map_err(|error| unshared.unwrap_or(error))?;
    let shm = agree(wiring, health, &pairs)?;
    clear(wiring);
    let segment = segment.filter(|_| pairs.iter().any(|p| p.segment.is_some()));
    let processes = hellos.iter().map(|hello| hello.process).collect();
    let cores = Cores::together(local.iter().filter_map(|rank| hellos.get(*rank as usize)).map(|hello| &hello.cores));
    let oversubscribed = local.len() > cores;
    Ok(Connections { topology: Topology::new(hosts, shm), segment, pairs, processes, oversubscribed })
}

/// Deletes the join's keys from the store. Each rank deletes its own hello, which all ranks have read. The last rank
/// deletes the records `mesh/ok` of all ranks. Errors of the store are ignored, since the mesh is complete.
fn clear(wiring: &Wiring) {
    let Wiring { rank, size, store, deadline, .. } = wiring;
    let _ = store.delete(&format!("mesh/{rank}"), *deadline);
    if store.add("mesh/done", 1, *deadline).is_ok_and(|done| done == i64::from(*size)) {
        for rank in 0..*size {
            let _ = store.delete(&format!("mesh/ok/{rank}"), *deadline);
        }
        let _ = store.delete("mesh/done", *deadline);
    }
}

/// Opens the listeners for peers, and makes the hello of this rank.
pub(super) fn open(transport: Transport, size: u32, tuning: &Tuning) -> Result<(JoinListener, Hello)> {
    let process = token()?;
    let mut unix = None;
    let mut name = format!("c10d-{:032x}", u128::from_be_bytes(random()?));
    match socket::listen_unix(&name) {
        Ok(fd) => unix = Some(fd),
        Err(e) => {
            let error =
                Error::new(ErrorKind::Resource, "cannot listen on a UNIX socket").caused_by(e).phase(Phase::Connect);
            match transport {
                Transport::Shm => return Err(error),
                _ if lacks_descriptors(&error) => return Err(error),
                Transport::Auto => tracing::warn!("no shared memory with other processes: {error:?}"),
                Transport::Tcp => tracing::debug!("other processes of this host are reached by TCP alone: {error:?}"),
            }
            name.clear();
        }
    }
    let listeners = if transport == Transport::Shm { Vec::new() } else { listen(transport)? };
    let tcp = listeners.iter().map(tcp::Listener::address).collect::<Result<_>>()?;
    let hello = Hello {
        host: HostId::here(),
        cores: Cores::here(),
        pid: std::process::id(),
        process,
        transport,
        size,
        tuning: tuning.clone(),
        unix: name,
        tcp,
    };
    Ok((JoinListener::new(unix, listeners), hello))
}

/// Makes one listening socket per address, and skips addresses on which this rank cannot listen. If no address is left,
/// returns an error if the transport is tcp or the user chose the address or interface, and otherwise an empty list. A
/// lack of descriptors is always an error.
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
        Some(e) if lacks_descriptors(&e) => Err(e),
        Some(e) if listeners.is_empty() && (explicit || transport == Transport::Tcp) => Err(e),
        Some(e) if listeners.is_empty() => {
            tracing::warn!("no connections over TCP: {e:?}");
            Ok(listeners)
        }
        _ => Ok(listeners),
    }
}

/// Makes this rank's segment. `None` if no peer is on this host, if the transport is tcp, or, with a warning, if the
/// segment cannot be made and TCP can replace it.
fn make_segment(transport: Transport, local: &[u32], layout: Layout, cma: bool) -> Result<Option<Arc<Segment>>> {
    if transport == Transport::Tcp || local.len() < 2 {
        return Ok(None);
    }
    let made = Segment::create(layout).map(|mut segment| {
        if cma && let Err(e) = segment.publish_process() {
            tracing::debug!("peers cannot read the memory of this process: {e:?}");
        }
        segment
    });
    match made {
        Ok(segment) => Ok(Some(Arc::new(segment))),
        // Without descriptors, TCP is no replacement: it needs even more.
        Err(e) if transport == Transport::Shm || lacks_descriptors(&e) => Err(e.phase(Phase::Connect)),
        Err(e) => {
            tracing::warn!("this rank uses TCP instead of shared memory: {e:?}");
            Ok(None)
        }
    }
}

/// Whether the error means that no descriptors are left, which prevents every transport.
fn lacks_descriptors(error: &Error) -> bool {
    let source = error.report().source.as_deref();
    let code = source.and_then(|e| {
        let code = e.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error);
        code.or_else(|| e.downcast_ref::<Errno>().copied())
    });
    matches!(code, Some(Errno::MFILE | Errno::NFILE))
}

fn scarce(what: &str, e: Errno) -> Error {
    Error::new(ErrorKind::Resource, what).caused_by(e).phase(Phase::Connect)
}

/// Publishes which peers share memory with this rank, waits until all ranks have published this, and returns what all
/// ranks have published.
fn agree(wiring: &Wiring, health: &Health, pairs: &[Pair]) -> Result<Vec<Vec<u8>>> {
    let key = |rank: u32| format!("mesh/ok/{rank}");
    let bits = topology::bits(wiring.size, |r| pairs[r as usize].segment.is_some());
    wiring.store.set(&key(wiring.rank), &bits, wiring.deadline).map_err(|e| e.phase(Phase::Rendezvous))?;
    // All connections of this rank exist, so a failure that a peer reports over them ends the wait.
    await_all(wiring, health, key)?;
    hello::gather(&*wiring.store, key, wiring.size, wiring.deadline, "did not connect to all other ranks")
}

/// Waits until all ranks have set their key in the store, or until the deadline; both are `Ok`. Returns an error if the
/// group or the store fails, a rank reports that it cannot join, or a rank without its key is gone.
fn await_all(wiring: &Wiring, health: &Health, key: impl Fn(u32) -> String) -> Result {
    const SLICE: Duration = Duration::from_millis(200);
    let Wiring { group, rank, size, store, reports, deadline, lost, warn_after, .. } = wiring;
    let mut reminder = Reminder::new(*warn_after);
    let keys: Vec<String> = (0..*size).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    loop {
        // The lost ranks are read before the store, so the store then has all that they wrote.
        let lost = lost();
        let slice = (*deadline).min(Instant::now() + SLICE);
        match store.wait(&keys, slice) {
            Ok(()) => return Ok(()),
            Err(_) if health.failed() => health.check()?,
            Err(e) => {
                if let Some(error) = reports.failure() {
                    return Err(error);
                }
                if slice == *deadline {
                    return Ok(());
                }
                if Instant::now() + SLICE / 10 < slice {
                    return Err(e.phase(Phase::Rendezvous));
                }
            }
        }
        let absent = |rank: &u32| matches!(store.check(&[keys[*rank as usize]], Instant::now() + SLICE), Ok(false));
        if lost.iter().any(absent) {
            return Err(health::gone(lost, health::BEFORE.to_owned()).phase(Phase::Rendezvous));
        }
        if reminder.is_due() {
            let missing: Vec<u32> = (0..*size).filter(absent).collect();
            reminder.say(&format!("rank {rank} is connecting group {group:?}; {} still missing", ranks_are(&missing)));
        }
    }
}
