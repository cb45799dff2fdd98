//! A control connection: frames to and from one peer process, for the life of the group.
//!
//! Any thread may send without blocking: the watcher later sends the data that the socket does not accept at once. Only
//! the watcher reads. Between processes of one host, the watcher watches the peer's process as well, because a forked
//! child of the peer can keep the connection open.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use c10d_core::sync::Mutex;
use c10d_core::{Error, Result};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::control::{Decoder, Frame};
use super::socket::Socket;
use super::watch::{self, Next, Token, Watched};

/// The limit on the bytes that are kept for a peer that does not read. Above it, frames that do not matter are dropped:
/// most queries, and this rank's answers about its own state and calls. Other frames, which are small and few, are
/// kept.
const BACKLOG: usize = 64 << 10;
/// The largest number of bytes read from one connection before other connections are served.
const TURN: usize = 64 << 10;

/// Why a connection ended if the peer's host did not answer the operating system for the configured time.
const UNREACHABLE: &str = "unreachable: its host or the network to it does not answer any more";

pub(crate) struct Connection {
    peer: u32,
    listener: Weak<dyn Listener>,
    fd: Socket,
    /// The peer's process, if it can be watched.
    life: Option<OwnedFd>,
    token: Token,
    out: Mutex<Vec<u8>>,
    decoder: Mutex<Decoder>,
    closing: AtomicBool,
    /// Whether the connection has ended and the peer may still live.
    unsure: AtomicBool,
}

/// The receiver of a connection's frames, and of its end.
pub(super) trait Listener: Send + Sync {
    fn handle(self: Arc<Self>, peer: u32, frame: Frame);
    fn broke_protocol(self: Arc<Self>, peer: u32, what: &str);
    /// Handles the end of the connection. Returns `true` if the peer may still live; the watcher then calls
    /// [`Listener::must_decide`] 80 ms later. `watched`: the peer's process is watched.
    fn hung_up(self: Arc<Self>, peer: u32, how: &str, watched: bool) -> bool;
    /// Handles the end of the peer's process.
    fn died(self: Arc<Self>, peer: u32, how: &str);
    /// Decides that the peer is alive if `watched` (its process is watched, and has not ended), else dead. Does nothing
    /// if another rank's answer has decided this.
    fn must_decide(self: Arc<Self>, peer: u32, watched: bool);
    /// Handles an error that ends the watch of the connection.
    fn watch_failed(self: Arc<Self>, error: Error);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// Bytes were read, and more may be available.
    Part,
    /// All bytes that had arrived were read.
    All,
    End,
}

impl Connection {
    /// Makes the control connection to `peer` from a connected non-blocking socket, and has it watched.
    pub(super) fn open(
        fd: Socket,
        life: Option<OwnedFd>,
        peer: u32,
        listener: Weak<dyn Listener>,
    ) -> Result<Arc<Connection>> {
        watch::watch(|token| Connection {
            peer,
            listener,
            fd,
            life,
            token,
            out: Mutex::new(Vec::new()),
            decoder: Mutex::new(Decoder::default()),
            closing: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
        })
    }

    pub(super) fn send(&self, frame: &Frame) {
        let matters = !matches!(frame, Frame::State { .. });
        self.send_bytes(&frame.to_bytes(), matters);
    }

    /// Sends a frame now, or as soon as the peer reads. If more than [`BACKLOG`] bytes are kept for the peer, a frame
    /// that does not matter is dropped.
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

    /// Drops all frames that are sent after this call. The watcher sends the kept bytes, and closes the descriptor when
    /// the peer has closed its end, or after 5 s.
    pub(super) fn close(&self) {
        let mut out = self.out.lock();
        self.closing.store(true, Ordering::Relaxed);
        self.flush(&mut out);
        watch::linger(self.token);
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
                        if let Some(listener) = self.listener.upgrade() {
                            listener.handle(self.peer, frame);
                        }
                    }
                    Ok(None) => break,
                    Err(what) => {
                        if let Some(listener) = self.listener.upgrade() {
                            listener.broke_protocol(self.peer, what);
                        }
                        return self.ended(&format!("sent {what}"));
                    }
                }
            }
        }
        Received::Part
    }

    fn ended(&self, how: &str) -> Received {
        if !self.closing.load(Ordering::Relaxed)
            && let Some(listener) = self.listener.upgrade()
        {
            self.unsure.store(listener.hung_up(self.peer, how, self.life.is_some()), Ordering::Relaxed);
        }
        Received::End
    }

    /// Writes as much of `out` as the socket accepts. Returns `Forget` if the socket is broken; the watcher finds the
    /// reason when it reads.
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
            // The peer reads the goodbye, then the end of the stream.
            let _ = shutdown(&self.fd, Shutdown::Write);
        }
        Next::Watch
    }
}

impl Watched for Connection {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn life(&self) -> Option<BorrowedFd<'_>> {
        self.life.as_ref().map(AsFd::as_fd)
    }

    fn ready(&self, readable: bool, writable: bool) -> Next {
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

    fn peer_ended(&self) -> Next {
        if self.unsure.load(Ordering::Relaxed) {
            if let Some(listener) = self.listener.upgrade() {
                listener.died(self.peer, "its process ended");
            }
            return Next::Forget;
        }
        loop {
            match self.receive() {
                Received::Part => {}
                Received::All => {
                    if !self.closing.load(Ordering::Relaxed)
                        && let Some(listener) = self.listener.upgrade()
                    {
                        listener.died(self.peer, "its process ended");
                    }
                    return Next::Forget;
                }
                Received::End if self.unsure.load(Ordering::Relaxed) => {
                    if let Some(listener) = self.listener.upgrade() {
                        listener.died(self.peer, "its process ended");
                    }
                    return Next::Forget;
                }
                Received::End => return Next::Forget,
            }
        }
    }

    fn must_decide(&self) {
        if let Some(listener) = self.listener.upgrade() {
            // The end of a watched process would have been noticed by now.
            listener.must_decide(self.peer, self.life.is_some());
        }
    }

    fn failed(&self, error: Error) {
        if let Some(listener) = self.listener.upgrade() {
            listener.watch_failed(error);
        }
    }
}
