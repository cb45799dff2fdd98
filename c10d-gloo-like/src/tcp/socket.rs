//! Makes connections, with a deadline, and sets their options.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use c10d_core::process::Private;
use c10d_core::{Error, ErrorKind, Phase, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// The shortest silence that [`end_when_silent`] can detect, since the operating system counts idle time in seconds.
pub(crate) const SHORTEST_SILENCE: Duration = Duration::from_secs(1);
/// The time between two attempts after a temporary failure (no descriptors left, no listener yet).
const RETRY: Duration = Duration::from_millis(20);
/// The largest number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A listening socket for peers. Forked children do not keep it open.
pub(crate) struct Listener {
    /// Declared before the socket, so that it is dropped before the descriptor is closed.
    _private: Private,
    socket: TcpListener,
}

impl Listener {
    /// Listens on a free port of this address.
    pub(crate) fn bind(ip: IpAddr) -> Result<Listener> {
        let listen = || {
            let address = SocketAddr::new(ip, 0);
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = listen().map_err(|e: io::Error| refused(format!("cannot listen on {ip}"), e))?;
        Ok(Listener { _private: Private::new(&socket), socket: socket.into() })
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.socket.local_addr().map_err(|e| refused("the listening socket has no address".into(), e))
    }

    /// The descriptor to poll for reading while waiting for a peer.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Accepts the next connection, tunes it and makes it non-blocking. Returns `None` if no connection arrived by the
    /// deadline. If the deadline has passed, this function does not wait.
    pub(crate) fn accept(&self, deadline: Instant) -> Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            match self.socket.accept() {
                Ok((stream, from)) => match tune(&stream) {
                    Ok(()) => return Ok(Some((stream, from))),
                    // The connection ended while it waited to be accepted.
                    Err(_) => continue,
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !ready(self.fd(), PollFlags::IN, deadline)
                        .map_err(|e| refused("polling failed".into(), e.into()))?
                    {
                        return Ok(None);
                    }
                }
                Err(e) if exhausted(&e) && Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(e) if exhausted(&e) => return Err(refused("a peer's connection cannot be accepted".into(), e)),
                // The connection failed before it was accepted, or a signal arrived.
                Err(e) if is_transient(&e) => {}
                Err(e) => return Err(refused("accepting a connection failed".into(), e)),
            }
        }
    }
}

/// Connects to this address. The connection is tuned and non-blocking. A listener must exist at the address by the
/// deadline.
pub(crate) fn dial(address: SocketAddr, deadline: Instant) -> Result<TcpStream> {
    let failed = |kind: ErrorKind, e: io::Error| {
        Error::new(kind, format!("cannot connect to {address}")).caused_by(e).phase(Phase::Connect)
    };
    loop {
        let attempt = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
            .and_then(|socket| connect(&socket, address, deadline).map(|()| socket))
            .map(TcpStream::from)
            .and_then(|stream| tune(&stream).map(|()| stream));
        match attempt {
            Ok(stream) => return Ok(stream),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(failed(ErrorKind::Timeout, e)),
            Err(e) if Instant::now() + RETRY < deadline && (exhausted(&e) || is_refusal(&e)) => {
                std::thread::sleep(RETRY)
            }
            Err(e) if exhausted(&e) => return Err(failed(ErrorKind::Resource, e)),
            Err(e) => return Err(failed(ErrorKind::Rendezvous, e)),
        }
    }
}

fn connect(socket: &Socket, address: SocketAddr, deadline: Instant) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => return Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(e) => return Err(e),
    }
    if !ready(socket.as_fd(), PollFlags::OUT, deadline)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.take_error()?.map_or(Ok(()), Err)
}

/// Waits until the descriptor is ready or has an error. Returns `false` at the deadline.
fn ready(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout)) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Makes the operating system end this connection if the peer's host is silent for this long.
///
/// Use this only for connections whose reader always reads. On a connection with payload, a late peer may not read for
/// a long time, which TCP's user timeout would count as silence.
pub(crate) fn end_when_silent(socket: &impl AsFd, silence: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let silence = silence.max(SHORTEST_SILENCE);
    let second = Duration::from_secs(1);
    let probes = TcpKeepalive::new()
        .with_time((silence / 2).max(second))
        .with_interval((silence / 8).max(second))
        .with_retries(4);
    socket.set_tcp_user_timeout(Some(silence))?;
    socket.set_tcp_keepalive(&probes)
}

/// Sets the options that all connections need. Connections with payload get no user timeout (see [`end_when_silent`]).
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // Congestion control algorithms that pace by time halve the speed of loopback, where there is no congestion. The
    // result is ignored: not every system allows this change, and it affects only the speed.
    let (own, peer) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    if peer.is_loopback() || peer == own {
        let _ = socket.set_tcp_congestion(b"reno");
    }
    Ok(())
}

fn refused(what: String, e: io::Error) -> Error {
    Error::new(ErrorKind::Resource, what).caused_by(e).phase(Phase::Connect)
}

fn exhausted(e: &io::Error) -> bool {
    let codes = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    codes.iter().any(|c| e.raw_os_error() == Some(c.raw_os_error()))
}

fn is_refusal(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

fn is_transient(e: &io::Error) -> bool {
    let codes = [Errno::CONNABORTED, Errno::PROTO, Errno::INTR, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::NETDOWN];
    codes.iter().any(|c| e.raw_os_error() == Some(c.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_hold() {
        let listener = Listener::bind(IpAddr::from([127, 0, 0, 1])).unwrap();
        assert!(listener.accept(Instant::now()).unwrap().is_none());
        let nobody = {
            let gone = Listener::bind(IpAddr::from([127, 0, 0, 1])).unwrap();
            gone.address().unwrap()
        };
        let error = dial(nobody, Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Rendezvous);
        assert!(error.to_string().contains(&nobody.to_string()), "{error}");
    }

    #[test]
    fn connections_are_tuned() {
        let listener = Listener::bind(IpAddr::from([127, 0, 0, 1])).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let dialled = dial(listener.address().unwrap(), deadline).unwrap();
        let (accepted, from) = listener.accept(deadline).unwrap().unwrap();
        assert_eq!(from, dialled.local_addr().unwrap());
        for stream in [dialled, accepted] {
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_user_timeout().unwrap().is_none_or(|t| t.is_zero()), "payload must not have a timeout");
            end_when_silent(&stream, Duration::from_secs(10)).unwrap();
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(10)));
            assert!(socket.keepalive().unwrap());
        }
    }
}
