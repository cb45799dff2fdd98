//! The operating system's list of this host's addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, sendto, socket_with};

use super::wire::Reader;

/// An address of an interface.
pub(super) struct Local {
    pub(super) interface: String,
    pub(super) ip: IpAddr,
}

const GETADDR: u16 = 22;
const NEWADDR: u16 = 20;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// A request for the whole table.
const REQUEST_DUMP: u16 = 0x301;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const ALIGN: usize = 4;

/// Returns every address of this host, in the operating system's order. Waits at most 1 s for the operating system's
/// answer.
pub(super) fn addresses() -> Result<Vec<Local>> {
    let deadline = Instant::now() + Duration::from_secs(1);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    // Header (length, type, flags, number, port), then an empty address message (8 bytes), which asks for all address
    // families.
    let mut request = Vec::from(24u32.to_le_bytes());
    request.extend_from_slice(&GETADDR.to_le_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_le_bytes());
    request.resize(24, 0);
    sendto(&socket, &request, SendFlags::NOSIGNAL, &SocketAddrNetlink::new(0, 0))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let slice = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&slice))? == 0 {
            return Err(Errno::TIMEDOUT);
        }
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if parse(&buffer[..len], &mut found).is_none() {
            break;
        }
    }
    Ok(found
        .into_iter()
        .filter_map(|(index, ip)| Some(Local { interface: netdevice::index_to_name(&socket, index).ok()?, ip }))
        .collect())
}

/// Reads one datagram and adds its addresses to `found`. Returns `None` at the end of the table, after an error of the
/// operating system, or if the datagram is malformed.
fn parse(datagram: &[u8], found: &mut Vec<(u32, IpAddr)>) -> Option<()> {
    let mut rest = Reader(datagram);
    while !rest.0.is_empty() {
        let len = rest.u32()? as usize;
        let kind = rest.u16()?;
        rest.bytes(10)?;
        let mut body = Reader(rest.bytes(len.checked_sub(16)?)?);
        // Padding of the last message may be missing.
        rest.bytes((len.next_multiple_of(ALIGN) - len).min(rest.0.len()))?;
        match kind {
            DONE | ERROR => return None,
            NEWADDR => {
                body.bytes(4)?;
                let index = body.u32()?;
                found.extend(attribute(body).map(|ip| (index, ip)));
            }
            _ => {}
        }
    }
    Some(())
}

/// Returns the local address in a message: `IFA_LOCAL` if present, otherwise `IFA_ADDRESS`. On a point-to-point
/// interface, `IFA_ADDRESS` is the address of the other end.
fn attribute(mut body: Reader<'_>) -> Option<IpAddr> {
    let mut address = None;
    while !body.0.is_empty() {
        let len = usize::from(body.u16()?);
        let kind = body.u16()?;
        let value = body.bytes(len.checked_sub(4)?)?;
        body.bytes((len.next_multiple_of(ALIGN) - len).min(body.0.len()))?;
        let ip = match value.len() {
            4 => Reader(value).array().map(|b: [u8; 4]| IpAddr::from(Ipv4Addr::from(b))),
            16 => Reader(value).array().map(|b: [u8; 16]| IpAddr::from(Ipv6Addr::from(b))),
            _ => None,
        };
        match kind {
            IFA_LOCAL if ip.is_some() => return ip,
            IFA_ADDRESS => address = ip,
            _ => {}
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_has_loopback() {
        match addresses() {
            Err(e) => println!("skipped: the kernel does not list its addresses here: {e}"),
            Ok(list) if list.is_empty() => println!("skipped: no interface is up"),
            Ok(list) => assert!(list.iter().any(|l| l.interface == "lo" && l.ip.is_loopback())),
        }
    }

    #[test]
    fn malformed_netlink_messages_end_the_list() {
        let mut found = Vec::new();
        assert_eq!(parse(&[1, 0, 0, 0, 20, 0], &mut found), None);
        assert_eq!(parse(&[3, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut found), None);
        assert_eq!(parse(&[255, 255, 255, 255, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut found), None);
        assert!(found.is_empty());
    }
}
