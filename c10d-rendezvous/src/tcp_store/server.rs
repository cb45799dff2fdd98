//! The handle of a server: a thread serves a TCPStore until the handle is dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use c10d_core::process::Process;
use c10d_core::{Error, ErrorKind, Result};
use mio::{Interest, Poll, Waker};
use socket2::{Domain, Protocol, Socket, Type};

use super::event_loop::{EventLoop, LISTENER, WAKER};
use super::options::ServerOptions;
use super::signals::Signals;

/// A TCPStore server for PyTorch's clients and [`TcpStore`](super::TcpStore). It serves from one thread, executes no
/// request of a client before the client's handshake, and stops when it is dropped.
///
/// If the process runs short of descriptors, a new client replaces the oldest client that has never changed or waited
/// for a key. If there is no such client, the new client replaces the longest idle client of the address with the most
/// connections. A new client of that address is refused. A forked child's copy serves nothing, and dropping it does
/// nothing.
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
    ///
    /// # Errors
    ///
    /// `Store` if the server cannot listen there; `Resource` if its thread cannot be started.
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
        // The operating system lowers this length of the queue to its own maximum.
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

    /// Returns the address at which the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether the server's thread has ended because of an error.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Serves until no client that has done the handshake is connected, but at most for `limit`, and then stops.
    pub fn drain(self, limit: Duration) {
        if !self.owner.is_current() {
            return;
        }
        self.signals.drain(Instant::now() + limit);
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
            // The thread belongs to the parent process.
            std::mem::forget(self.thread.take());
            return;
        }
        if let Some(thread) = self.thread.take() {
            self.signals.stop();
            let _ = self.waker.wake();
            let _ = thread.join();
        }
    }
}
