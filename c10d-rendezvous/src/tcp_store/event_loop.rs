//! The server's one thread: accepts, reads, executes, answers, and shows the door.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::process::Private;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use socket2::{SockRef, TcpKeepalive};

use super::connection::Connection;
use super::protocol::STOP_WAITING;
use super::server::{ServerOptions, Signals};
use super::state::State;

pub(super) const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
const FIRST_CLIENT: usize = 2;

/// How many connections are accepted, and bytes read from one client, before the others get their turn.
const ACCEPTS_PER_TURN: usize = 64;
const BYTES_PER_TURN: usize = 256 << 10;
/// Pause after the system refused a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Says something by [`tracing`]. A subscriber that panics must not end the thread that serves all ranks.
fn told(say: impl FnOnce()) {
    c10d_core::panics::contain("a tracing subscriber", say);
}

pub(super) struct EventLoop {
    poll: Poll,
    /// Before the listener, so that it ends before the descriptor is closed.
    _private: Private,
    listener: TcpListener,
    options: ServerOptions,
    signals: Arc<Signals>,
    state: State,
    clients: HashMap<usize, Connection>,
    next_id: usize,
    /// Clients that may have more to read.
    ready: VecDeque<usize>,
    /// Clients before validation, oldest first.
    unvalidated: BTreeSet<usize>,
    /// Clients that must validate, complete a request or take an answer, and by when.
    due: BTreeSet<(Instant, usize)>,
    accept_at: Option<Instant>,
    buffered: usize,
    buffer: Vec<u8>,
    woken: Vec<usize>,
    warned: Option<Instant>,
}

impl EventLoop {
    pub(super) fn new(poll: Poll, listener: TcpListener, options: ServerOptions, signals: Arc<Signals>) -> EventLoop {
        EventLoop {
            poll,
            _private: Private::new(&listener),
            listener,
            state: State::new(options.limits),
            options,
            signals,
            clients: HashMap::new(),
            next_id: FIRST_CLIENT,
            ready: VecDeque::new(),
            unvalidated: BTreeSet::new(),
            due: BTreeSet::new(),
            accept_at: None,
            buffered: 0,
            buffer: vec![0; 64 << 10],
            woken: Vec::new(),
            warned: None,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            if self.signals.stop_now(|| self.clients.len() > self.unvalidated.len()) {
                return;
            }
            let timeout = self.until_next(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    told(|| tracing::error!(error = %e, "the store server cannot poll any more"));
                    return;
                }
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_at = Some(Instant::now()),
                    WAKER => {}
                    Token(id) => self.ready.push_back(id),
                }
            }
            self.accept();
            for _ in 0..self.ready.len() {
                if let Some(id) = self.ready.pop_front() {
                    self.serve(id);
                }
            }
            self.expire(Instant::now());
        }
    }

    fn until_next(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = [self.due.first().map(|(at, _)| *at), self.accept_at, self.signals.drain_until()];
        next.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    fn accept(&mut self) {
        if self.accept_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(Connection::new(stream, peer, self.options.limits)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    told(|| tracing::warn!(error = %e, "the store server cannot accept; trying again"));
                    self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut connection: Connection) {
        let id = self.next_id;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(e) = self.poll.registry().register(&mut connection.stream, Token(id), interest) {
            told(|| tracing::warn!(error = %e, "the store server cannot watch a connection"));
            return;
        }
        // Neither is needed to be right: one is speed, the other forgets clients whose machine vanished.
        let socket = SockRef::from(&connection.stream);
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)));
        self.next_id += 1;
        let due = Instant::now() + self.options.handshake_timeout;
        connection.due = Some(due);
        self.due.insert((due, id));
        self.clients.insert(id, connection);
        self.unvalidated.insert(id);
        self.ready.push_back(id);
        while self.unvalidated.len() > self.options.max_unvalidated
            && let Some(oldest) = self.unvalidated.first().copied()
        {
            self.close(oldest, "too many connections that have not validated");
        }
    }

    fn serve(&mut self, id: usize) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let kept = self.exchange(id, &mut client);
        self.buffered = self.buffered + client.footprint() - client.accounted;
        client.accounted = client.footprint();
        if client.validated() {
            self.unvalidated.remove(&id);
            self.set_due(id, &mut client);
        }
        self.clients.insert(id, client);
        match kept {
            Err(why) => self.close(id, &why),
            Ok(()) if self.buffered > self.options.limits.buffers => self.close(id, "the server's buffers are full"),
            Ok(()) => {}
        }
        for other in std::mem::take(&mut self.woken) {
            if let Some(client) = self.clients.get_mut(&other) {
                client.out.push(STOP_WAITING);
                self.ready.push_back(other);
            }
        }
    }

    /// Each step forward gives a client that owes us something new time for the next.
    fn set_due(&mut self, id: usize, client: &mut Connection) {
        let due = match (client.owes(), client.due) {
            (false, _) => None,
            (true, Some(due)) if !client.take_progress() => Some(due),
            (true, _) => Some(Instant::now() + self.options.request_timeout),
        };
        if due != client.due {
            if let Some(old) = client.due {
                self.due.remove(&(old, id));
            }
            self.due.extend(due.map(|at| (at, id)));
            client.due = due;
        }
    }

    /// Reads, executes and answers until there is nothing to do now, or it is the others' turn.
    fn exchange(&mut self, id: usize, client: &mut Connection) -> Result<(), String> {
        let EventLoop { state, woken, buffer, ready, .. } = self;
        let mut execute = |request, out: &mut Vec<u8>| state.apply(id, request, out, woken);
        let mut taken = 0;
        loop {
            client.flush().map_err(|e| e.to_string())?;
            if client.congested() {
                // The socket is full: its next writable event goes on from here.
                return Ok(());
            }
            if client.has_backlog() {
                client.parse(&[], &mut execute).map_err(|e| e.to_string())?;
                continue;
            }
            if taken >= BYTES_PER_TURN {
                ready.push_back(id);
                return Ok(());
            }
            match client.read(buffer).map_err(|e| e.to_string())? {
                None => return Ok(()),
                Some(0) => return Err(String::new()),
                Some(n) => {
                    taken += n;
                    client.parse(&buffer[..n], &mut execute).map_err(|e| e.to_string())?;
                }
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.close(id, "it did not validate, complete a request or take an answer in time");
        }
    }

    /// Drops a client; `why` is empty where the client itself left.
    fn close(&mut self, id: usize, why: &str) {
        let Some(client) = self.clients.remove(&id) else { return };
        self.buffered -= client.accounted;
        self.state.forget(id);
        self.unvalidated.remove(&id);
        if let Some(due) = client.due {
            self.due.remove(&(due, id));
        }
        if !why.is_empty() && self.warned.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.warned = Some(Instant::now());
            told(|| tracing::warn!(peer = %client.peer, why, "store connection closed"));
        }
    }
}
