//! One connection of a client: blocking reads and writes that obey a deadline.

use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use c10d_core::process::Private;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::protocol::{Command, NO_DESCRIPTORS, STOP_WAITING, WAIT_CANCELED, Write};

/// How long after the deadline of a wait the server may take to confirm the end of the wait.
pub(super) const GRACE: Duration = Duration::from_millis(90);

pub(super) struct Link {
    /// Declared first, so that it is dropped before the stream's descriptor is closed.
    _private: Private,
    stream: TcpStream,
    /// Received bytes that were not read yet: `buffer[start..end]`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Link {
    pub(super) fn open(addr: SocketAddr, deadline: Instant) -> io::Result<Link> {
        let stream = TcpStream::connect_timeout(&addr, left(deadline)?)?;
        if stream.local_addr()? == stream.peer_addr()? {
            // Without a listener, a socket can connect to itself on an ephemeral port.
            return Err(ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        let mut link = Link { _private: Private::new(&stream), stream, buffer: vec![0; 4096].into(), start: 0, end: 0 };
        let nonce = std::process::id();
        let mut hello = Vec::new();
        hello.hello(nonce);
        let sent = link.send(&hello, deadline);
        // A server that refuses the connection may close it before it reads anything. `sent` may then be an error, and
        // the server's answer has the reason.
        match link.pong(nonce, deadline) {
            Ok(()) => sent.map(|()| link),
            Err(e) if Refused::is(&e) => Err(e),
            Err(e) => Err(sent.err().unwrap_or(e)),
        }
    }

    /// Whether the connection can be used for another call: the server has not closed it, and has sent no unexpected
    /// bytes.
    pub(super) fn usable(&self) -> bool {
        let peek = rustix::net::recv(&self.stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        self.start == self.end && peek == Err(Errno::AGAIN)
    }

    pub(super) fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if transient(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(super) fn byte(&mut self, deadline: Instant) -> io::Result<u8> {
        let mut byte = [0];
        self.read_exact(&mut byte, deadline)?;
        Ok(byte[0])
    }

    pub(super) fn integer(&mut self, deadline: Instant) -> io::Result<i64> {
        let mut bytes = [0; 8];
        self.read_exact(&mut bytes, deadline)?;
        Ok(i64::from_le_bytes(bytes))
    }

    /// Reads a count or length, which must be at most `limit`.
    pub(super) fn length(&mut self, limit: usize, deadline: Instant) -> io::Result<usize> {
        let n = self.integer(deadline)?;
        usize::try_from(n).ok().filter(|n| *n <= limit).ok_or_else(|| invalid(format!("a length of {n}")))
    }

    /// Reads a byte string. Memory is allocated as its bytes arrive.
    pub(super) fn string(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let len = self.length(1 << 30, deadline)?;
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let done = bytes.len();
            bytes.resize(len.min(done + (1 << 20).max(done)), 0);
            self.read_exact(&mut bytes[done..], deadline)?;
        }
        Ok(bytes)
    }

    /// Reads the answer to PING, which shows that everything that was sent before has been executed.
    pub(super) fn pong(&mut self, nonce: u32, deadline: Instant) -> io::Result<()> {
        let mut bytes = [0; 4];
        self.read_exact(&mut bytes, deadline)?;
        if bytes == NO_DESCRIPTORS.to_le_bytes() {
            let limit = self.integer(deadline)?;
            return Err(io::Error::other(Refused { limit }));
        }
        if bytes == nonce.to_le_bytes() { Ok(()) } else { Err(invalid(format!("{bytes:02x?} instead of a pong"))) }
    }

    /// Sends a WAIT or BARRIER. Returns whether the awaited event happened in time. At the deadline, cancels the wait.
    /// The server has `grace` to confirm the cancellation.
    pub(super) fn wait(&mut self, request: &[u8], deadline: Instant, grace: Duration) -> io::Result<bool> {
        self.send(request, deadline)?;
        match self.byte(deadline) {
            Ok(STOP_WAITING) => return Ok(true),
            Ok(other) => return Err(invalid(format!("{other} instead of the end of a wait"))),
            Err(e) if e.kind() == ErrorKind::TimedOut => {}
            Err(e) => return Err(e),
        }
        let deadline = Instant::now() + grace;
        self.send(&[Command::CancelWait as u8], deadline)?;
        // If the server ended the wait before it read the cancellation, it sends both answers.
        match (self.byte(deadline)?, STOP_WAITING) {
            (WAIT_CANCELED, _) => Ok(false),
            (STOP_WAITING, _) if self.byte(deadline)? == WAIT_CANCELED => Ok(true),
            _ => Err(invalid("no confirmation of a cancelled wait".into())),
        }
    }

    fn read_exact(&mut self, mut out: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !out.is_empty() {
            if self.start == self.end {
                let direct = out.len() >= self.buffer.len();
                let n = self.receive(if direct { Some(&mut *out) } else { None }, deadline)?;
                if direct {
                    out = &mut out[n..];
                } else {
                    (self.start, self.end) = (0, n);
                }
                continue;
            }
            let n = out.len().min(self.end - self.start);
            let (head, rest) = out.split_at_mut(n);
            head.copy_from_slice(&self.buffer[self.start..self.start + n]);
            self.start += n;
            out = rest;
        }
        Ok(())
    }

    /// Reads once, into `direct` or into the buffer.
    fn receive(&mut self, direct: Option<&mut [u8]>, deadline: Instant) -> io::Result<usize> {
        let into = direct.unwrap_or(&mut self.buffer);
        loop {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(into) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => return Ok(n),
                Err(e) if transient(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The server has no descriptor for this connection.
#[derive(Debug, thiserror::Error)]
#[error(
    "the process that hosts the store (rank 0, or the launcher) has no file descriptor left (limit {limit}; raise it with \
     ulimit -n there)"
)]
pub(super) struct Refused {
    limit: i64,
}

impl Refused {
    pub(super) fn is(e: &io::Error) -> bool {
        e.get_ref().is_some_and(|e| e.is::<Refused>())
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_micros(1))) }
}

fn transient(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the server answered {what}; is it a TCPStore?"))
}
