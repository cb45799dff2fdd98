//! Rank 0 serves the store.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Result};

use super::at_exit::at_exit;
use crate::tcp_store::{WeakStore, resolve};
use crate::{ServerOptions, TcpStore, TcpStoreServer};

/// How long the end of this process waits for other ranks that still use a server of its.
const LINGER: Duration = Duration::from_secs(5);

/// A server of this process. It lives as long as the process: when the last group here has ended, other ranks may still
/// be in theirs, or in the next one already.
struct Hosted {
    server: TcpStoreServer,
    /// The clients of this process.
    clients: Vec<WeakStore>,
}

/// In a forked child there is no server, only its image: it begins anew.
static HOSTED: PerProcess<Mutex<Vec<Hosted>>> = PerProcess::new();

/// A client of the store that this process serves at `host:port`; the server is the same one for every group that it has
/// there, one after the other or at once.
pub(super) fn store(host: &str, port: u16, deadline: Instant) -> Result<TcpStore> {
    if port == 0 {
        // Nobody else can know it.
        return TcpStore::hosting(serve(host, port, deadline)?, deadline);
    }
    let places = places(host, port, deadline).map_err(|e| failed(host, port, e))?;
    let mut hosted = HOSTED.get().lock();
    hosted.retain(|h| !h.server.has_ended());
    let known = hosted.iter().position(|h| places.iter().any(|place| serves(h.server.local_addr(), *place)));
    let at = match known {
        Some(at) => at,
        None => {
            let server = serve_at(host, port, &places)?;
            at_exit(linger);
            hosted.push(Hosted { server, clients: Vec::new() });
            hosted.len() - 1
        }
    };
    let Some(here) = hosted.get_mut(at) else {
        return Err(Error::new(ErrorKind::Internal, "the store that was just found is gone"));
    };
    let store = TcpStore::of_this_process(&here.server, deadline)?;
    here.clients.retain(|client| client.upgrade().is_some());
    here.clients.push(store.downgrade());
    Ok(store)
}

/// When the process ends, other ranks may still use the store.
fn linger() {
    // Nothing else holds the lock for long.
    let Some(mut hosted) = HOSTED.get().try_lock_for(Duration::from_secs(1)) else { return };
    hosted.retain(|h| !h.server.has_ended());
    let until = Instant::now() + LINGER;
    for Hosted { server, clients } in hosted.drain(..) {
        clients.iter().filter_map(WeakStore::upgrade).for_each(|client| client.hang_up());
        server.drain(until.saturating_duration_since(Instant::now()));
    }
}

/// Whether a server that listens at `addr` is found at `place`.
fn serves(addr: SocketAddr, place: SocketAddr) -> bool {
    let everywhere = addr.ip().is_unspecified() && (addr.is_ipv6() || place.is_ipv4());
    addr.port() == place.port() && (addr.ip() == place.ip() || everywhere)
}

/// Serves at `host:port`: at that address alone where it is one of this machine's, else (behind address translation, or
/// a service name) at all.
pub(crate) fn serve(host: &str, port: u16, deadline: Instant) -> Result<TcpStoreServer> {
    serve_at(host, port, &places(host, port, deadline).map_err(|e| failed(host, port, e))?)
}

/// Where to listen for `host`, in order of preference.
fn places(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    Ok(resolve(host, port, deadline)?.into_iter().map(|addr| listen_at(host, addr)).collect())
}

fn serve_at(host: &str, port: u16, places: &[SocketAddr]) -> Result<TcpStoreServer> {
    for place in places {
        match TcpStoreServer::try_bind(*place, ServerOptions::default()) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {}
            server => return server.map_err(|e| failed(host, port, e)),
        }
    }
    tracing::warn!(host, port, "not an address of this machine; the store listens at all of its addresses");
    let everywhere = |ip: IpAddr| TcpStoreServer::try_bind((ip, port).into(), ServerOptions::default());
    let server = everywhere(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| everywhere(Ipv4Addr::UNSPECIFIED.into()));
    server.map_err(|e| failed(host, port, e))
}

fn failed(host: &str, port: u16, e: io::Error) -> Error {
    let why = match e.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; choose another, or look for an earlier run that still lives",
        _ => "rank 0 must be able to listen there",
    };
    let place = format!("{host}:{port}");
    Error::new(ErrorKind::Rendezvous, format!("cannot serve the store at {place:?}: {why}")).caused_by(e)
}

/// Some systems give their own name a loopback address, where ranks of other hosts would find nobody.
fn listen_at(host: &str, mut addr: SocketAddr) -> SocketAddr {
    let numeric = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if addr.ip().is_loopback() && !numeric && host != "localhost" {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
    }
    addr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_by_every_name_of_its_address() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(serves(at("127.0.0.1:5"), at("127.0.0.1:5")) && serves(at("0.0.0.0:5"), at("10.0.0.1:5")));
        assert!(serves(at("[::]:5"), at("10.0.0.1:5")) && serves(at("[::]:5"), at("[::1]:5")));
        assert!(!serves(at("127.0.0.1:5"), at("127.0.0.1:6")) && !serves(at("127.0.0.1:5"), at("127.0.0.2:5")));
        assert!(!serves(at("0.0.0.0:5"), at("[::1]:5")));
    }

    #[test]
    fn only_a_name_of_this_machine_opens_all_addresses() {
        let local: SocketAddr = "127.0.1.1:5".parse().unwrap();
        assert!(listen_at("node7", local).ip().is_unspecified());
        assert_eq!(listen_at("localhost", local), local);
        assert_eq!(listen_at("127.0.1.1", local), local);
        let outside: SocketAddr = "192.0.2.1:5".parse().unwrap();
        assert_eq!(listen_at("node7", outside), outside);
    }
}
