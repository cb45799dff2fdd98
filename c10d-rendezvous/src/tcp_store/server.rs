//! The server: a thread that serves a TCPStore until it is dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use c10d_core::process::Process;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Result};
use mio::{Interest, Poll, Waker};
use socket2::{Domain, Protocol, Socket, Type};

use super::Limits;
use super::event_loop::{EventLoop, LISTENER, WAKER};

/// How a [`TcpStoreServer`] treats its clients.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Bounds on memory.
    pub limits: Limits,
    /// A connection that has not validated by then is dropped.
    pub handshake_timeout: Duration,
    /// A request that is not complete, or an answer not taken, by then costs the connection.
    pub request_timeout: Duration,
    /// How many connections may be before validation; the oldest make room.
    pub max_unvalidated: usize,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            limits: Limits::default(),
            handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            max_unvalidated: 1024,
        }
    }
}

/// A TCPStore server that PyTorch's clients and [`TcpStore`](super::TcpStore) can use. Serves from one thread, looks up
/// no names, executes nothing before a client has validated, and stops when dropped. When the process is short of
/// descriptors, the oldest of the clients that never set, took or waited for anything is closed for one that comes; if there
/// is none, that one of the address with the most connections that has asked for nothing for the longest time; and a client
/// of that very address is told that there are no descriptors. A forked child's copy serves nothing, and does nothing when
/// dropped.
#[derive(Debug)]
pub struct TcpStoreServer {
    addr: SocketAddr,
    signals: Arc<Signals>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    owner: Process,
}

impl TcpStoreServer {
    /// Listens at `addr` (port 0: any free port) and serves from a thread of its own.
    pub fn bind(addr: SocketAddr, options: ServerOptions) -> Result<TcpStoreServer> {
        TcpStoreServer::try_bind(addr, options).map_err(|e| {
            let what = format!("cannot serve a store at {addr}; is the port taken?");
            match e.kind() {
                io::ErrorKind::WouldBlock => Error::no_thread(what, e),
                _ => Error::new(ErrorKind::Store, what).caused_by(e),
            }
        })
    }

    pub(crate) fn try_bind(addr: SocketAddr, options: ServerOptions) -> io::Result<TcpStoreServer> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        // The kernel lowers it to its own maximum.
        socket.listen(1 << 16)?;
        let listener: std::net::TcpListener = socket.into();
        let addr = listener.local_addr()?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let signals = Arc::new(Signals::default());
        let server = EventLoop::new(poll, listener, options, signals.clone());
        let thread = std::thread::Builder::new().name("c10d-store".into()).spawn(move || server.run())?;
        Ok(TcpStoreServer { addr, signals, waker, thread: Some(thread), owner: Process::current() })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether it serves no more: its thread met an error that it could not live with.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Serves on until no validated client is connected, at most for `limit`, then stops.
    pub fn drain(self, limit: Duration) {
        if !self.owner.is_current() {
            return;
        }
        *self.signals.drain_until.lock() = Some(Instant::now() + limit);
        self.end();
    }

    fn end(mut self) {
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for TcpStoreServer {
    fn drop(&mut self) {
        if !self.owner.is_current() {
            // The thread is the parent's; there is nothing to wait for, or to let go, here.
            std::mem::forget(self.thread.take());
            return;
        }
        if let Some(thread) = self.thread.take() {
            self.signals.stop.store(true, Ordering::Release);
            let _ = self.waker.wake();
            let _ = thread.join();
        }
    }
}

/// What the owner tells the server's thread.
#[derive(Debug, Default)]
pub(super) struct Signals {
    stop: AtomicBool,
    drain_until: Mutex<Option<Instant>>,
}

impl Signals {
    pub(super) fn drain_until(&self) -> Option<Instant> {
        *self.drain_until.lock()
    }

    pub(super) fn stop_now(&self, in_use: impl FnOnce() -> bool) -> bool {
        self.stop.load(Ordering::Acquire) || self.drain_until().is_some_and(|at| !in_use() || Instant::now() >= at)
    }
}
