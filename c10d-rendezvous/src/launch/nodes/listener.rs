//! Makes the connections from the launchers of the other hosts to the launcher of host 0.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Phase, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::id::is_id;
use super::link::{Link, line, plain, take_in};
use crate::tcp_store::resolve;

/// The largest number of connections that have not identified themselves.
const GUESTS: usize = 256;
/// How long a connection may take to identify itself.
const HELLO: Duration = Duration::from_secs(5);
const NAME: &str = "c10d-launch";

pub(super) struct LaunchListener {
    listener: TcpListener,
    token: String,
}

struct Guest {
    stream: TcpStream,
    unread: Vec<u8>,
    until: Instant,
}

impl LaunchListener {
    pub(super) fn open(ip: IpAddr, token: String) -> io::Result<LaunchListener> {
        let addr = SocketAddr::new(ip, 0);
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.bind(&addr.into())?;
        // All launchers may connect at the same time.
        socket.listen(1 << 16)?;
        Ok(LaunchListener { listener: socket.into(), token })
    }

    /// Returns the text that host 0 puts into the store for the other launchers: the port and the token.
    pub(super) fn sign(&self) -> io::Result<String> {
        Ok(format!("{} {}", self.listener.local_addr()?.port(), self.token))
    }

    /// Waits for all other launchers, sends them the job's id, and stops listening.
    pub(super) fn admit(self, nodes: u32, run_id: &str, deadline: Instant) -> Result<Vec<Link>> {
        let mut links: Vec<Link> = Vec::new();
        let mut guests: Vec<Guest> = Vec::new();
        while (links.len() as u64) < u64::from(nodes) - 1 {
            let now = Instant::now();
            if now >= deadline {
                let missing: Vec<u32> = (1..nodes).filter(|node| !links.iter().any(|l| l.node == *node)).collect();
                return Err(wrong(format!("hosts {missing:?} did not connect to the launcher on host 0")));
            }
            guests.retain(|guest| now < guest.until);
            let next = guests.iter().map(|guest| guest.until).chain([deadline]).min().unwrap_or(deadline);
            let left = next.saturating_duration_since(now);
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds: Vec<PollFd<'_>> = guests.iter().map(|g| PollFd::new(&g.stream, PollFlags::IN)).collect();
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(wrong("cannot wait for the other launchers".into()).caused_by(e)),
            }
            drop(fds);
            for mut guest in std::mem::take(&mut guests) {
                let there = take_in(&mut guest.stream, &mut guest.unread).is_ok();
                match line(&mut guest.unread) {
                    Some(hello) => {
                        let node = self.read(&hello, nodes).filter(|node| !links.iter().any(|l| l.node == *node));
                        links.extend(node.and_then(|node| welcome(node, guest.stream, run_id).ok()));
                    }
                    None if there => guests.push(guest),
                    None => {}
                }
            }
            while let Ok((stream, _)) = self.listener.accept() {
                if stream.set_nonblocking(true).is_ok() {
                    guests.push(Guest { stream, unread: Vec::new(), until: Instant::now() + HELLO });
                }
                if guests.len() > GUESTS {
                    guests.remove(0);
                }
            }
        }
        Ok(links)
    }

    /// Returns the number of the host from which a hello comes; `None` if the hello is not valid.
    fn read(&self, hello: &str, nodes: u32) -> Option<u32> {
        let node = hello.strip_prefix(NAME)?.strip_prefix(' ')?.strip_prefix(self.token.as_str())?.strip_prefix(' ')?;
        node.parse().ok().filter(|node| (1..nodes).contains(node))
    }
}

fn welcome(node: u32, mut stream: TcpStream, run_id: &str) -> io::Result<Link> {
    stream.write_all(format!("welcome {run_id}\n").as_bytes())?;
    Link::new(node, stream)
}

/// Connects host `node` to host 0, by the text `sign` from the store. Returns the connection and the job's id.
pub(super) fn enter(host: &str, sign: &str, node: u32, deadline: Instant) -> Result<(Link, String)> {
    let unclear = || wrong(format!("the launcher on host 0 put the invalid text {:?} into the store", plain(sign)));
    let (port, token) = sign.split_once(' ').ok_or_else(unclear)?;
    let port: u16 = port.parse().map_err(|_| unclear())?;
    let run_id = |stream: &mut TcpStream| -> io::Result<String> {
        stream.write_all(format!("{NAME} {token} {node}\n").as_bytes())?;
        // One byte is read at a time: the bytes after the line must stay in the socket for `Link::receive`.
        let mut answer = Vec::new();
        while answer.len() < 64 && answer.last() != Some(&b'\n') {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&answer);
        let id = text.strip_prefix("welcome ").map(str::trim_end);
        id.filter(|id| is_id(id)).map(str::to_owned).ok_or_else(|| io::Error::other("the answer is invalid"))
    };
    let failed = |e: io::Error| {
        wrong(format!(
            "cannot connect to the launcher on host 0 at {host}:{port}; check that this port is open between the hosts, \
             and that this launcher of host {node} is the only one"
        ))
        .caused_by(e)
    };
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for addr in resolve(host, port, deadline).map_err(failed)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&addr, left).and_then(|mut stream| Ok((run_id(&mut stream)?, stream))) {
            Ok((id, stream)) => return Ok((Link::new(node, stream).map_err(failed)?, id)),
            Err(e) => last = e,
        }
    }
    Err(failed(last))
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_not_admitted_and_delay_no_launcher() {
        let listener = LaunchListener::open("127.0.0.1".parse().unwrap(), "secret".into()).unwrap();
        let (addr, sign) = (listener.listener.local_addr().unwrap(), listener.sign().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        let admitted = std::thread::spawn(move || listener.admit(3, "0123456789abcdef", deadline));
        let knock = |words: &[u8]| {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.write_all(words).unwrap();
            stream
        };
        let silent: Vec<TcpStream> = (0..GUESTS + 10).map(|_| knock(b"")).collect();
        let liars =
            [&b"c10d-launch guess 1\n"[..], b"c10d-launch secret 0\n", b"c10d-launch secret 3\n", b"GET / HTTP/1.1\n"];
        let liars: Vec<TcpStream> = liars.iter().map(|words| knock(words)).collect();
        let mut links = Vec::new();
        for node in [2, 1] {
            let (link, id) = enter("127.0.0.1", &sign, node, deadline).unwrap();
            assert_eq!(id, "0123456789abcdef");
            links.push(link);
        }
        let admitted = admitted.join().unwrap().unwrap();
        assert_eq!(admitted.iter().map(|link| link.node).collect::<Vec<_>>(), [2, 1]);
        for mut stream in silent.into_iter().chain(liars) {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
        }
        assert!(TcpStream::connect(addr).is_err(), "the listener is closed");
    }

    #[test]
    fn a_host_comes_once_and_the_missing_are_named() {
        let listener = LaunchListener::open("127.0.0.1".parse().unwrap(), "secret".into()).unwrap();
        let sign = listener.sign().unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        let admitted = std::thread::spawn(move || listener.admit(3, "0123456789abcdef", deadline));
        let first = enter("127.0.0.1", &sign, 1, deadline).unwrap();
        let second = enter("127.0.0.1", &sign, 1, deadline).err().unwrap().to_string();
        assert!(second.contains("host 1") && second.contains("the only one"), "{second}");
        let error = admitted.join().unwrap().err().unwrap().to_string();
        assert!(error.contains("hosts [2]"), "{error}");
        drop(first);
        assert!(enter("127.0.0.1", "no sign", 1, deadline).is_err());
        assert!(enter("127.0.0.1", "\x1b[2J x", 1, deadline).err().unwrap().to_string().contains('\u{fffd}'));
    }
}
