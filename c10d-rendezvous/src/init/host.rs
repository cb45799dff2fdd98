//! Rank 0 serves the store.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use c10d_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use crate::tcp_store::{WeakStore, resolve};
use crate::{ServerOptions, TcpStore, TcpStoreServer};

/// What [`store`] serves in this process.
static HOSTED: Mutex<Vec<(String, u16, WeakStore)>> = Mutex::new(Vec::new());

/// The store that this process serves at `host:port`; the same one for every group that it has there.
pub(super) fn store(host: &str, port: u16, deadline: Instant) -> Result<TcpStore> {
    let mut hosted = HOSTED.lock();
    hosted.retain(|(_, _, store)| store.upgrade().is_some());
    let same = hosted.iter().find(|(h, p, _)| h == host && *p == port && port > 0);
    if let Some(store) = same.and_then(|(_, _, store)| store.upgrade()) {
        return Ok(store);
    }
    let store = TcpStore::hosting(serve(host, port, deadline)?, deadline)?;
    hosted.push((host.to_owned(), port, store.downgrade()));
    Ok(store)
}

/// Serves at `host:port`: at that address alone where it is one of this machine's, else (behind address translation, or
/// a service name) at all.
pub(crate) fn serve(host: &str, port: u16, deadline: Instant) -> Result<TcpStoreServer> {
    let failed = |e: io::Error| {
        let why = match e.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is taken; choose another, or look for an earlier run that still lives"
            }
            _ => "rank 0 must be able to listen there",
        };
        Error::new(ErrorKind::Rendezvous, format!("cannot serve the store at {host}:{port}: {why}")).source(e)
    };
    for addr in resolve(host, port, deadline).map_err(failed)? {
        match TcpStoreServer::try_bind(listen_at(host, addr), ServerOptions::default()) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {}
            server => return server.map_err(failed),
        }
    }
    tracing::warn!(host, port, "not an address of this machine; the store listens at all of its addresses");
    let everywhere = |ip: IpAddr| TcpStoreServer::try_bind((ip, port).into(), ServerOptions::default());
    everywhere(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| everywhere(Ipv4Addr::UNSPECIFIED.into())).map_err(failed)
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
    fn only_a_name_of_this_machine_opens_all_addresses() {
        let local: SocketAddr = "127.0.1.1:5".parse().unwrap();
        assert!(listen_at("node7", local).ip().is_unspecified());
        assert_eq!(listen_at("localhost", local), local);
        assert_eq!(listen_at("127.0.1.1", local), local);
        let outside: SocketAddr = "192.0.2.1:5".parse().unwrap();
        assert_eq!(listen_at("node7", outside), outside);
    }
}
