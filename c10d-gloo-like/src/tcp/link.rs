//! A TCP connection as a link. A read goes directly into the caller's memory. Further bytes that have arrived go into a
//! buffer, from which the next reads take them.

use std::io::{IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use c10d_core::process::Private;
use c10d_core::{Error, ErrorKind, Phase, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::unacknowledged;

/// The size of the receive buffer, which is made at the first read.
const BUFFER: usize = 256 << 10;
/// If the buffer has fewer bytes than this, a read first moves them to the buffer's start, to make room for the rest of
/// a header or an element. Neither a header nor an element has more bytes than this.
const LITTLE: usize = 64;
/// If fewer bytes than those of a header are in the buffer, [`TcpLink::glance`] tries to receive more.
const ENOUGH: usize = 32;
/// Up to this many bytes are first copied into one buffer, since one `send` of one buffer is faster than a `sendmsg` of
/// several parts.
const SMALL: usize = 256;
/// A read for more than this many bytes puts at most this many further bytes into the buffer.
const TAKE_ALONG: usize = 4 << 10;

pub(crate) struct TcpLink {
    /// Declared before the stream, so that it is dropped before the descriptor is closed.
    _private: Private,
    stream: Arc<TcpStream>,
    peer: u32,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The number of bytes that the last `peek` returned, if none was consumed since. A caller that peeks again needs
    /// more bytes.
    shown: usize,
    /// Whether the last read found nothing. If so, the socket is polled before the next read: a read locks the socket,
    /// so repeated reads delay the bytes that arrive.
    drained: bool,
    /// How the connection ended, if it has ended. The link reports this only after the caller has read all received
    /// bytes.
    gone: Option<&'static str>,
}

impl TcpLink {
    /// Makes the link to `peer` over this connection, which must be non-blocking.
    pub(crate) fn new(stream: TcpStream, peer: u32) -> TcpLink {
        TcpLink {
            _private: Private::new(&stream),
            stream: Arc::new(stream),
            peer,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            shown: 0,
            drained: false,
            gone: None,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// See [`crate::link::Link::socket`].
    pub(crate) fn socket(&self) -> Arc<TcpStream> {
        self.stream.clone()
    }

    /// See [`crate::link::Link::is_untaken`].
    pub(crate) fn is_untaken(&self) -> bool {
        unacknowledged(self.fd())
    }

    /// See [`crate::link::Link::finish`].
    pub(crate) fn finish(&self) {
        // This fails only if the connection has already ended.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// See [`crate::link::Link::write`].
    pub(crate) fn write(&mut self, head: &[u8], body: &[u8]) -> Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let len = head.len() + body.len();
        let mut small = [0; SMALL];
        if len <= SMALL {
            small[..head.len()].copy_from_slice(head);
            small[head.len()..len].copy_from_slice(body);
        }
        loop {
            let sent = if len <= SMALL {
                send(&self.stream, &small[..len], flags)
            } else {
                let parts = [IoSlice::new(head), IoSlice::new(body)];
                sendmsg(&self.stream, &parts, &mut SendAncillaryBuffer::default(), flags)
            };
            match sent {
                Ok(n) => return Ok(n),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                // The operating system is short of memory. The caller tries again, at most until the op's deadline.
                Err(Errno::NOBUFS | Errno::NOMEM) => return Ok(0),
                Err(e) => return Err(self.dead(how(e))),
            }
        }
    }

    /// See [`crate::link::Link::peek`].
    pub(crate) fn peek(&mut self) -> Result<&[u8]> {
        let held = self.end - self.start;
        if held == self.shown {
            self.receive(&mut [])?;
        }
        let held = self.end - self.start;
        // The caller may need only the bytes before the end, so the end is reported only when no bytes are left.
        if let Some(how) = self.gone
            && held == 0
        {
            return Err(self.dead(how));
        }
        self.shown = held;
        Ok(&self.buffer[self.start..self.end])
    }

    /// See [`crate::link::Link::glance`].
    pub(crate) fn glance(&mut self) -> &[u8] {
        if self.end - self.start < ENOUGH {
            // If the connection ends here, the reason is kept for a caller that needs the bytes.
            let _ = self.receive(&mut []);
        }
        &self.buffer[self.start..self.end]
    }

    /// See [`crate::link::Link::peek_whole`].
    pub(crate) fn peek_whole(&mut self, len: usize) -> Option<&[u8]> {
        if self.end - self.start < len {
            // If the connection ends here, the reason is kept for a caller that needs the bytes.
            let _ = self.receive(&mut []);
        }
        let bytes = &self.buffer[self.start..self.end];
        (bytes.len() >= len).then_some(bytes)
    }

    /// See [`crate::link::Link::consume`].
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.end - self.start);
        self.start += n;
        if n > 0 {
            self.shown = 0;
        }
    }

    /// See [`crate::link::Link::read`].
    pub(crate) fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        let mut done = self.drain(to);
        if done < to.len() && self.gone.is_none() {
            done += self.receive(&mut to[done..])?;
        }
        match self.gone {
            Some(how) if done == 0 && !to.is_empty() => Err(self.dead(how)),
            _ => Ok(done),
        }
    }

    fn drain(&mut self, to: &mut [u8]) -> usize {
        let n = to.len().min(self.end - self.start);
        to[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.consume(n);
        n
    }

    /// Receives once into `to`. Further bytes go into the buffer, which must be empty unless `to` is empty. Returns the
    /// number of bytes in `to`.
    fn receive(&mut self, to: &mut [u8]) -> Result<usize> {
        if self.gone.is_some() || self.drained && !self.is_ready() {
            return Ok(0);
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
        if self.start > 0 && (self.start == self.end || self.end - self.start < LITTLE || self.end == BUFFER) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let spare = &mut self.buffer[self.end..];
        // A large read is followed by more large reads, which should also go directly into the caller's memory.
        let along = if to.len() > TAKE_ALONG { spare.len().min(TAKE_ALONG) } else { spare.len() };
        if to.is_empty() && along == 0 {
            return Ok(0);
        }
        let wanted = to.len();
        loop {
            let mut parts = [IoSliceMut::new(to), IoSliceMut::new(&mut spare[..along])];
            match rustix::io::readv(&self.stream, &mut parts) {
                Ok(0) => self.gone = Some("connection closed"),
                Ok(n) => {
                    self.drained = false;
                    self.end += n.saturating_sub(wanted);
                    return Ok(n.min(wanted));
                }
                Err(Errno::AGAIN) => self.drained = true,
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS | Errno::NOMEM) => {}
                Err(e) => self.gone = Some(how(e)),
            }
            return Ok(0);
        }
    }

    /// Whether a read would return at once.
    fn is_ready(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // If the poll fails, this returns `true`, so that the caller tries to read.
        poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&now)) != Ok(0)
    }

    #[cold]
    fn dead(&self, how: &str) -> Error {
        Error::new(ErrorKind::PeerDead { how: how.into() }, "").guilty([self.peer]).phase(Phase::Transfer)
    }
}

fn how(e: Errno) -> &'static str {
    match e {
        Errno::CONNRESET => "connection reset",
        Errno::PIPE => "connection closed",
        Errno::TIMEDOUT => "connection timed out",
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => "host unreachable",
        _ => "connection failed",
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
