//! The addresses at which this rank can be reached over TCP.
//!
//! If `C10D_SOCKET_ADDR` (an address) or `C10D_SOCKET_IFNAME` (interfaces, as in NCCL's variable) is set, the rank
//! listens only there. Otherwise, if `MASTER_ADDR` is a loopback address, the rank uses only loopback. Otherwise, the
//! list of addresses begins with loopback, for ranks on the same host, and the address on the route to `MASTER_ADDR` or
//! on the default route. The other addresses of the interfaces follow. No rank listens on the wildcard address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use c10d_core::{Error, ErrorKind, Phase, Result};

use super::netlink::{self, Local};

/// The largest number of addresses that are offered to peers.
pub(super) const MAX: usize = 8;
pub(crate) const IFNAME: &str = "C10D_SOCKET_IFNAME";
pub(crate) const ADDR: &str = "C10D_SOCKET_ADDR";

/// The environment variables that choose the addresses.
#[derive(Default)]
pub(super) struct Wish {
    pub(super) addr: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) master: Option<String>,
}

impl Wish {
    pub(super) fn from_env() -> Wish {
        let var = |name| std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        Wish { addr: var(ADDR), interface: var(IFNAME), master: var("MASTER_ADDR") }
    }
}

/// Returns the addresses to listen on, the best first.
pub(super) fn choose(wish: &Wish) -> Result<Vec<IpAddr>> {
    // Without netlink (in a sandbox), only loopback and the addresses on routes are known.
    let local = netlink::addresses().unwrap_or_default();
    let towards = |to: IpAddr| route(to);
    select(wish, &local, towards)
}

fn select(wish: &Wish, local: &[Local], towards: impl Fn(IpAddr) -> Option<IpAddr>) -> Result<Vec<IpAddr>> {
    let refuse = |what: String| Err(Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous));
    if let Some(text) = &wish.addr {
        return match text.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() => Ok(vec![ip]),
            _ => refuse(format!("{ADDR} is {text:?}: expected one IPv4 or IPv6 address of this host")),
        };
    }
    let usable = |l: &&Local| !is_link_local(l.ip);
    if let Some(text) = &wish.interface {
        let found: Vec<IpAddr> = named(text, local).filter(usable).map(|l| l.ip).take(MAX).collect();
        if found.is_empty() {
            let known: BTreeSet<&str> = local.iter().map(|l| l.interface.as_str()).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            let what = format!("{IFNAME} is {text:?}, but no interface that this selects has a usable address");
            return refuse(format!("{what}; the interfaces of this host are: {known}"));
        }
        return Ok(found);
    }
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let master = wish.master.as_ref().and_then(|m| if m == "localhost" { Some(loopback) } else { m.parse().ok() });
    let mut list = vec![loopback];
    if !local.is_empty() && !local.iter().any(|l| l.ip == loopback) {
        list = vec![IpAddr::V6(Ipv6Addr::LOCALHOST)];
    }
    if master.is_some_and(|m| m.is_loopback()) {
        return Ok(list);
    }
    // No packet is sent to these addresses. The operating system's route to them shows the local address that peers
    // most likely reach.
    let documentation =
        [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    let routed = master.into_iter().chain(documentation).filter_map(towards);
    for ip in routed.chain(local.iter().filter(usable).map(|l| l.ip)) {
        if !ip.is_loopback() && !ip.is_unspecified() && !list.contains(&ip) && list.len() < MAX {
            list.push(ip);
        }
    }
    Ok(list)
}

/// Returns the addresses of the interfaces that `text` names, in the syntax of `NCCL_SOCKET_IFNAME`: comma-separated
/// prefixes of names, in order of preference. After `^` the prefixes exclude interfaces. After `=` (or `^=`) the names
/// are exact.
fn named<'a>(text: &str, local: &'a [Local]) -> impl Iterator<Item = &'a Local> {
    let (excludes, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
    let (whole, text) = text.strip_prefix('=').map_or((false, text), |rest| (true, rest));
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let place = |name: &str| words.iter().position(|word| if whole { name == *word } else { name.starts_with(word) });
    let mut found: Vec<(usize, &Local)> = local
        .iter()
        .filter_map(|l| match (place(&l.interface), excludes) {
            (Some(place), false) => Some((place, l)),
            (None, true) => Some((0, l)),
            _ => None,
        })
        .collect();
    // The sort is stable: addresses that match one word stay in the system's order.
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, l)| l)
}

/// Returns a peer's addresses in the order in which to try them. `shared_network` says whether the peer is in this
/// rank's network namespace. If so, loopback comes first; if not, loopback is left out; if unknown (`None`), loopback
/// comes last.
pub(super) fn order(theirs: &[SocketAddr], shared_network: Option<bool>) -> Vec<SocketAddr> {
    let (near, far): (Vec<SocketAddr>, Vec<SocketAddr>) = theirs.iter().partition(|a| a.ip().is_loopback());
    match shared_network {
        Some(true) => near.into_iter().chain(far).collect(),
        Some(false) => far,
        None => far.into_iter().chain(near).collect(),
    }
}

/// Returns this host's address on the route to `to`: the operating system assigns it to a UDP socket that is connected
/// to `to`. `None` if there is no route.
fn route(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !is_link_local(*ip))
}

/// Whether the address is valid only together with an interface.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Vec<Local> {
        [("lo", "127.0.0.1"), ("eth0", "10.0.0.2"), ("eth0", "fe80::1"), ("eth1", "10.1.0.2"), ("eth1", "fd00::2")]
            .map(|(interface, ip)| Local { interface: interface.into(), ip: ip.parse().unwrap() })
            .into()
    }

    fn pick(wish: Wish, towards: Option<&str>) -> Result<Vec<String>> {
        let list = select(&wish, &local(), |_| towards.map(|t| t.parse().unwrap()))?;
        Ok(list.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn loopback_jobs_stay_on_loopback() {
        for master in ["127.0.0.1", "localhost", "::1"] {
            let wish = Wish { master: Some(master.into()), ..Wish::default() };
            assert_eq!(pick(wish, Some("10.1.0.2")).unwrap(), ["127.0.0.1"]);
        }
    }

    #[test]
    fn the_address_on_the_route_to_the_master_comes_first_after_loopback() {
        let wish = Wish { master: Some("10.1.0.9".into()), ..Wish::default() };
        assert_eq!(pick(wish, Some("10.1.0.2")).unwrap(), ["127.0.0.1", "10.1.0.2", "10.0.0.2", "fd00::2"]);
        assert_eq!(pick(Wish::default(), None).unwrap(), ["127.0.0.1", "10.0.0.2", "10.1.0.2", "fd00::2"]);
    }

    #[test]
    fn environment_variables_override_the_choice_of_addresses() {
        let wish = |name: &str| Wish { interface: Some(name.into()), ..Wish::default() };
        assert_eq!(pick(wish("eth1"), None).unwrap(), ["10.1.0.2", "fd00::2"]);
        let error = pick(wish("eth7"), None).unwrap_err().to_string();
        assert!(error.contains("eth7") && error.contains("eth0, eth1"), "{error}");
        // The same texts have the same meaning in `NCCL_SOCKET_IFNAME`.
        for (text, addresses) in [
            ("eth", &["10.0.0.2", "10.1.0.2", "fd00::2"][..]),
            ("eth1,eth0", &["10.1.0.2", "fd00::2", "10.0.0.2"]),
            ("=eth0", &["10.0.0.2"]),
            ("=eth1, lo", &["10.1.0.2", "fd00::2", "127.0.0.1"]),
            ("^lo,docker", &["10.0.0.2", "10.1.0.2", "fd00::2"]),
            ("^=eth0,eth1", &["127.0.0.1"]),
            ("^docker", &["127.0.0.1", "10.0.0.2", "10.1.0.2", "fd00::2"]),
        ] {
            assert_eq!(pick(wish(text), None).unwrap(), addresses, "{text}");
        }
        for text in ["=eth", "^eth,lo", ",", "=", "eth0 eth1"] {
            let error = pick(wish(text), None).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("eth0, eth1, lo"), "{error}");
        }
        let wish = |addr: &str| Wish { addr: Some(addr.into()), ..Wish::default() };
        assert_eq!(pick(wish("fd00::9"), None).unwrap(), ["fd00::9"]);
        assert!(pick(wish("0.0.0.0"), None).is_err());
        assert!(pick(wish("my-host"), None).is_err());
    }

    #[test]
    fn a_peer_in_another_network_namespace_is_not_dialled_on_loopback() {
        let a = ["127.0.0.1:1", "10.0.0.2:2"].map(|a| a.parse().unwrap());
        assert_eq!(order(&a, Some(true)), a);
        assert_eq!(order(&a, Some(false)), a[1..]);
        assert_eq!(order(&a, None), [&a[1..], &a[..1]].concat());
    }
}
