//! A control connection: frames to and from one peer process, for the life of the group.
//!
//! Any thread sends, none of them waits; what does not go at once is kept and sent by the watcher. Only the watcher
//! reads. Between processes of one host the peer's process is watched, too: a connection lasts as long as any process has
//! a copy of its other end, such as a child that the peer has forked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use c10d_core::Result;
use c10d_core::sync::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::control::{Decoder, Frame};
use super::health::Health;
use super::socket::Socket;
use super::watch::{self, Token};

/// What may wait for a peer that does not read: questions beyond it are dropped, the rest is small and said once.
const BACKLOG: usize = 64 << 10;
/// What is read of one connection before the others have their turn.
const TURN: usize = 64 << 10;

/// The kernel heard nothing of the peer's host for as long as it was told to wait.
const UNREACHABLE: &str = "unreachable: its host or the network to it does not answer any more";

/// See the module.
pub(crate) struct Connection {
    peer: u32,
    health: Weak<Health>,
    fd: Socket,
    /// The peer's process, where it can be watched.
    life: Option<OwnedFd>,
    token: Token,
    out: Mutex<Vec<u8>>,
    decoder: Mutex<Decoder>,
    closing: AtomicBool,
    /// The connection has ended; whether the peer has, others are asked.
    unsure: AtomicBool,
}

/// What the watcher is to do with a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Watch,
    Forget,
    /// Nothing comes any more. [`Connection::must_decide`] when the time is over.
    Unsure,
}

/// What a look at the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// There may be more.
    Part,
    /// There is no more now.
    All,
    /// Nothing will come any more.
    End,
}

impl Connection {
    /// Puts a connected non-blocking socket to `peer` under watch.
    pub(super) fn open(
        fd: Socket,
        life: Option<OwnedFd>,
        peer: u32,
        health: Weak<Health>,
    ) -> Result<std::sync::Arc<Connection>> {
        watch::watch(|token| Connection {
            peer,
            health,
            fd,
            life,
            token,
            out: Mutex::new(Vec::new()),
            decoder: Mutex::new(Decoder::default()),
            closing: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn life(&self) -> Option<BorrowedFd<'_>> {
        self.life.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn send(&self, frame: &Frame) {
        let matters = !matches!(frame, Frame::State { .. });
        self.send_bytes(&frame.to_bytes(), matters);
    }

    /// Sends a frame now or as soon as the peer reads. Frames that do not matter enough are dropped when it does not.
    pub(super) fn send_bytes(&self, frame: &[u8], matters: bool) {
        let mut out = self.out.lock();
        if self.closing.load(Ordering::Relaxed) || (!matters && out.len() > BACKLOG) {
            return;
        }
        let idle = out.is_empty();
        out.extend_from_slice(frame);
        if idle && self.flush(&mut out) == Next::Watch && !out.is_empty() {
            watch::want_write(self.token, self.fd(), true);
        }
    }

    /// Says that nothing more will be sent, and leaves the rest to the watcher: the descriptor is closed when the peer
    /// has closed too, or after a while.
    pub(super) fn close(&self) {
        let mut out = self.out.lock();
        self.closing.store(true, Ordering::Relaxed);
        self.flush(&mut out);
        watch::linger(self.token);
    }

    /// Something happened on the socket.
    pub(super) fn ready(&self, readable: bool, writable: bool) -> Next {
        if writable {
            let mut out = self.out.lock();
            if self.flush(&mut out) == Next::Watch && out.is_empty() {
                watch::want_write(self.token, self.fd(), false);
            }
        }
        match readable && self.receive() == Received::End {
            true if self.unsure.load(Ordering::Relaxed) => Next::Unsure,
            true => Next::Forget,
            false => Next::Watch,
        }
    }

    /// The peer's process has ended. What it said before is heard, and nothing comes after that.
    pub(super) fn peer_ended(&self) -> Next {
        if self.unsure.load(Ordering::Relaxed) {
            if let Some(health) = self.health.upgrade() {
                health.died(self.peer, "its process ended");
            }
            return Next::Forget;
        }
        loop {
            match self.receive() {
                Received::Part => {}
                Received::All => {
                    if !self.closing.load(Ordering::Relaxed)
                        && let Some(health) = self.health.upgrade()
                    {
                        health.died(self.peer, "its process ended");
                    }
                    return Next::Forget;
                }
                Received::End if self.unsure.load(Ordering::Relaxed) => {
                    if let Some(health) = self.health.upgrade() {
                        health.died(self.peer, "its process ended");
                    }
                    return Next::Forget;
                }
                Received::End => return Next::Forget,
            }
        }
    }

    fn receive(&self) -> Received {
        let mut decoder = self.decoder.lock();
        let mut buffer = [0; 4096];
        for _ in 0..TURN / buffer.len() {
            match recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return self.ended("connection closed"),
                Ok((n, _)) => decoder.push(&buffer[..n]),
                Err(Errno::AGAIN) => return Received::All,
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET | Errno::PIPE) => return self.ended("connection reset"),
                Err(Errno::TIMEDOUT) => return self.ended(UNREACHABLE),
                Err(e) => return self.ended(&format!("connection failed: {}", io::Error::from(e))),
            }
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        if let Some(health) = self.health.upgrade() {
                            health.hear(self.peer, frame);
                        }
                    }
                    Ok(None) => break,
                    Err(what) => return self.ended(&format!("sent {what}")),
                }
            }
        }
        Received::Part
    }

    fn ended(&self, how: &str) -> Received {
        if !self.closing.load(Ordering::Relaxed)
            && let Some(health) = self.health.upgrade()
        {
            self.unsure.store(health.hung_up(self.peer, how, self.life.is_some()), Ordering::Relaxed);
        }
        Received::End
    }

    /// Nobody has said whether the peer lives.
    pub(super) fn must_decide(&self) {
        if let Some(health) = self.health.upgrade() {
            // Where its process is watched, that would have told its end.
            health.must_decide(self.peer, self.life.is_some());
        }
    }

    /// The watcher gave up on this connection.
    pub(super) fn failed(&self, error: c10d_core::Error) {
        if let Some(health) = self.health.upgrade() {
            health.fail(error);
        }
    }

    /// Writes what goes; `Forget`: nothing will ever go, which the watcher learns by reading.
    fn flush(&self, out: &mut Vec<u8>) -> Next {
        while !out.is_empty() {
            match send(&self.fd, out, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => drop(out.drain(..n)),
                Err(Errno::AGAIN) => return Next::Watch,
                Err(Errno::INTR) => {}
                Err(_) => {
                    out.clear();
                    return Next::Forget;
                }
            }
        }
        if self.closing.load(Ordering::Relaxed) {
            // The peer reads the goodbye, then the end.
            let _ = shutdown(&self.fd, Shutdown::Write);
        }
        Next::Watch
    }
}
