//! Rank 0 serves the store.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use c10d_core::process::{PerProcess, at_exit};
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Result};

use crate::tcp_store::{WeakStore, resolve};
use crate::{ServerOptions, TcpStore, TcpStoreServer};

/// How long this process, before it ends, waits for other ranks that still use one of its servers.
const LINGER: Duration = Duration::from_secs(5);

/// A server that this process runs until the process ends, because other ranks may use the server after this process
/// has left its groups.
struct Hosted {
    server: TcpStoreServer,
    clients: Vec<WeakStore>,
}

/// A forked child gets a new, empty list.
static HOSTED: PerProcess<Mutex<Vec<Hosted>>> = PerProcess::new();

/// Returns a client of the store that this process serves at `host:port`. All groups of this process at that address
/// use the same server.
pub(super) fn store(host: &str, port: u16, deadline: Instant) -> Result<TcpStore> {
    if port == 0 {
        // No other process knows the port that the system chooses, so the server may end with its client.
        return TcpStore::hosting(serve(host, port, deadline)?, deadline);
    }
    let addresses = addresses(host, port, deadline).map_err(|e| failed(host, port, e))?;
    let mut hosted = HOSTED.get().lock();
    hosted.retain(|h| !h.server.has_ended());
    let known = hosted.iter().position(|h| addresses.iter().any(|address| serves(h.server.local_addr(), *address)));
    let at = match known {
        Some(at) => at,
        None => {
            let server = serve_at(host, port, &addresses)?;
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

/// Waits at the end of the process for other ranks that still use the store, for at most [`LINGER`].
fn linger() {
    // If the lock is still held after a second, the process ends without the wait.
    let Some(mut hosted) = HOSTED.get().try_lock_for(Duration::from_secs(1)) else { return };
    hosted.retain(|h| !h.server.has_ended());
    let until = Instant::now() + LINGER;
    for Hosted { server, clients } in hosted.drain(..) {
        clients.iter().filter_map(WeakStore::upgrade).for_each(|client| client.hang_up());
        server.drain(until.saturating_duration_since(Instant::now()));
    }
}

/// Whether a server that listens at `addr` can be reached at `address`.
fn serves(addr: SocketAddr, address: SocketAddr) -> bool {
    let everywhere = addr.ip().is_unspecified() && (addr.is_ipv6() || address.is_ipv4());
    addr.port() == address.port() && (addr.ip() == address.ip() || everywhere)
}

/// Serves at `host:port`: only at that address, or at every address if `host` is `0.0.0.0` or `[::]`.
pub(crate) fn serve(host: &str, port: u16, deadline: Instant) -> Result<TcpStoreServer> {
    serve_at(host, port, &addresses(host, port, deadline).map_err(|e| failed(host, port, e))?)
}

/// Returns the addresses to listen at for `host`, in order of preference. Loopback addresses come last: ranks of other
/// hosts cannot reach them.
fn addresses(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = resolve(host, port, deadline)?;
    addresses.sort_by_key(|address| address.ip().is_loopback());
    Ok(addresses)
}

fn serve_at(host: &str, port: u16, addresses: &[SocketAddr]) -> Result<TcpStoreServer> {
    let mut foreign = None;
    for address in addresses {
        match TcpStoreServer::try_bind(*address, ServerOptions::default()) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => foreign = Some(e),
            Err(e) => return Err(failed(host, port, e)),
            Ok(server) => {
                if address.ip().is_loopback() && is_name(host) {
                    tracing::warn!(
                        host,
                        port,
                        "the name belongs to a loopback address, so only ranks of this host can join"
                    );
                }
                return Ok(server);
            }
        }
    }
    Err(failed(host, port, foreign.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
}

fn is_name(host: &str) -> bool {
    host != "localhost" && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
}

fn failed(host: &str, port: u16, e: io::Error) -> Error {
    let why = match e.kind() {
        io::ErrorKind::AddrInUse => "the port is in use; choose another, or look for an earlier run that has not ended",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; set one of the machine's addresses, or set 0.0.0.0 (on rank 0 only) \
             to listen at every address"
        }
        _ => "rank 0 must be able to listen there",
    };
    let address = format!("{host}:{port}");
    Error::new(ErrorKind::Rendezvous, format!("cannot serve the store at {address:?}: {why}")).caused_by(e)
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

    /// On many systems, the machine's own name is a name of the loopback address.
    #[test]
    fn a_host_name_never_listens_at_all_addresses() {
        let soon = || Instant::now() + Duration::from_secs(20);
        let mut names = vec!["localhost".to_owned(), "ip6-localhost".to_owned()];
        names.push(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned());
        for name in names.iter().filter(|name| resolve(name, 0, soon()).is_ok()) {
            let addr = serve(name, 0, soon()).unwrap().local_addr();
            assert!(!addr.ip().is_unspecified(), "for {name}, the server listens at {addr}");
        }
        assert!(serve("0.0.0.0", 0, soon()).unwrap().local_addr().ip().is_unspecified());
    }

    #[test]
    fn an_address_elsewhere_is_an_error_that_says_what_to_do() {
        // No machine has this address.
        let error = serve("192.0.2.1", 0, Instant::now() + Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1") && error.contains("0.0.0.0 (on rank 0 only) to listen"), "{error}");
    }
}
