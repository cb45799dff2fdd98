//! The server's only thread: it accepts connections, reads, executes and answers requests, and closes connections that
//! break the rules.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::process::Private;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use socket2::{SockRef, TcpKeepalive};

use super::connection::Connection;
use super::keyspace::{Keyspace, Task};
use super::options::ServerOptions;
use super::protocol::{NO_DESCRIPTORS, Refusal, Request, STOP_WAITING, Write as _};
use super::quota::{Home, home};
use super::signals::Signals;

pub(super) const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
const FIRST_CLIENT: usize = 2;

/// The number of connections that are accepted before clients get their turn.
const ACCEPTS_PER_TURN: usize = 16;
/// A turn of a client ends after `WORK_PER_TURN` units of work, `BYTES_PER_TURN` bytes read, or `SENT_PER_TURN` bytes
/// (see `connection.rs`) sent without a break. One unit of work is a request, a further key of a list, or
/// `ANSWER_PER_WORK` bytes of an answer.
const WORK_PER_TURN: usize = 256;
const ANSWER_PER_WORK: usize = 4 << 10;
pub(super) const BYTES_PER_TURN: usize = 64 << 10;
/// When the clients in `busy` have used this much CPU time without a pause, they get only half of a core.
const BURST: Duration = Duration::from_millis(100);
/// A quarter of this process's descriptors, but at most this many, are a reserve. When a new client gets one of these
/// descriptors, the server closes the oldest client that has used no key, if that client is at least `STRANGER_STAYS`
/// old. A client uses a key when it changes the key or waits for it.
const RESERVE: usize = 256;
/// The age up to which a client that has used no key may stay when descriptors are scarce.
const STRANGER_STAYS: Duration = Duration::from_secs(1);
/// The pause after the system refused a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// When no descriptor has been free for this long, new clients are refused. Until then, a new client waits.
const SCARCE: Duration = Duration::from_secs(1);

/// Logs through [`tracing`]. A subscriber that panics must not end the thread that serves all ranks.
fn log(event: impl FnOnce()) {
    c10d_core::panics::contain("a tracing subscriber", event);
}

pub(super) struct EventLoop {
    poll: Poll,
    /// Declared first, so that it is dropped before the listener's descriptor is closed.
    _private: Private,
    listener: TcpListener,
    options: ServerOptions,
    signals: Arc<Signals>,
    keyspace: Keyspace,
    clients: HashMap<usize, Connection>,
    next_id: usize,
    /// The clients that may have more bytes to read.
    ready: VecDeque<usize>,
    /// The clients that have used up their turn. One of these clients gets its next turn when all clients in `ready`
    /// have had a turn.
    busy: VecDeque<usize>,
    /// Limits the busy clients to half of a core. Each of their turns moves this time (or the present, if that is
    /// later) forward by twice the CPU time of the turn. While this time is more than `BURST` in the future, busy
    /// clients get no turn.
    even_at: Instant,
    /// The clients that have not changed or waited for a key, oldest first.
    strangers: BTreeSet<usize>,
    /// The clients that have not done the handshake (TCPStore's VALIDATE), oldest first.
    unvalidated: BTreeSet<usize>,
    /// The times by which clients must do the handshake, complete a request or read an answer.
    due: BTreeSet<(Instant, usize)>,
    /// The time of the next attempt to accept connections; `None` if no connection is pending.
    accept_at: Option<Instant>,
    /// The number of bytes that the buffers of all clients hold.
    buffered: usize,
    /// The memory into which the server reads from a client.
    buffer: Vec<u8>,
    /// The clients whose wait for keys has ended in this turn.
    woken: Vec<usize>,
    /// The time of the last warning about a closed connection.
    warned: Option<Instant>,
    /// A spare descriptor. The server closes it to accept a client when no other descriptor is free.
    spare: Option<File>,
    /// The client that was accepted with the spare descriptor and waits until another descriptor is free.
    held: Option<(TcpStream, SocketAddr)>,
    /// The time since which a client waits because no descriptor is free.
    scarce: Option<Instant>,
}

impl EventLoop {
    pub(super) fn new(poll: Poll, listener: TcpListener, options: ServerOptions, signals: Arc<Signals>) -> EventLoop {
        EventLoop {
            poll,
            _private: Private::new(&listener),
            listener,
            keyspace: Keyspace::new(options.limits),
            options,
            signals,
            clients: HashMap::new(),
            next_id: FIRST_CLIENT,
            ready: VecDeque::new(),
            busy: VecDeque::new(),
            even_at: Instant::now(),
            strangers: BTreeSet::new(),
            unvalidated: BTreeSet::new(),
            due: BTreeSet::new(),
            accept_at: None,
            buffered: 0,
            buffer: vec![0; 64 << 10],
            woken: Vec::new(),
            warned: None,
            spare: spare(),
            held: None,
            scarce: None,
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
                    log(|| tracing::error!(error = %e, "the store server cannot poll any more"));
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
            self.go_on();
            self.keyspace.tidy(WORK_PER_TURN);
            self.expire(Instant::now());
        }
    }

    fn until_next(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() || self.keyspace.is_untidy() {
            return Some(Duration::ZERO);
        }
        let busy = (!self.busy.is_empty()).then(|| self.even_at.checked_sub(BURST).unwrap_or(now));
        let next = [self.due.first().map(|(at, _)| *at), self.accept_at, self.signals.drain_until(), busy];
        next.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    fn accept(&mut self) {
        if self.accept_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        if !self.let_in() {
            self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let accepted = self.listener.accept();
            // The system takes a descriptor before it looks for a client. So one was free, even if there is no client.
            if accepted.as_ref().err().is_none_or(|e| e.kind() == io::ErrorKind::WouldBlock) {
                self.scarce = None;
            }
            match accepted {
                Ok((stream, peer)) => {
                    // The system assigns the lowest free descriptor number, so the number shows how many descriptors
                    // are in use.
                    let scarce = is_reserved(stream.as_raw_fd());
                    self.admit(Connection::new(stream, peer, self.options.limits));
                    if scarce {
                        self.make_room();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) if no_descriptors(&e) && (self.make_room() || self.hold()) => {}
                Err(e) => {
                    log(|| tracing::warn!(error = %e, "the store server cannot accept; trying again"));
                    self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Closes the oldest connection that has used no key, if this connection is at least 1 s old. Returns whether a
    /// connection was closed.
    fn make_room(&mut self) -> bool {
        let oldest = self.strangers.first().copied();
        let oldest = oldest.filter(|id| self.clients.get(id).is_some_and(|c| c.since.elapsed() >= STRANGER_STAYS));
        oldest.inspect(|id| self.close(*id, "descriptors are scarce, and this client has used no key")).is_some()
    }

    /// Accepts a client with the spare descriptor. The new client takes the place of a client of the address with the
    /// most connections, or waits. Returns `false` if no further client can be accepted now.
    fn hold(&mut self) -> bool {
        if self.spare.take().is_none() {
            self.spare = spare();
            return false;
        }
        match self.listener.accept() {
            Ok((stream, peer)) => match self.crowded_out(home(peer.ip())) {
                Some(id) => {
                    self.close(id, "descriptors are scarce, and this client's address has the most connections");
                    self.admit(Connection::new(stream, peer, self.options.limits));
                    self.spare = spare();
                    true
                }
                None => {
                    self.held = Some((stream, peer));
                    self.scarce.get_or_insert_with(Instant::now);
                    self.let_in()
                }
            },
            Err(_) => {
                self.spare = spare();
                false
            }
        }
    }

    /// Admits the client that waits for a descriptor, or refuses it if no descriptor has been free for 1 s. Returns
    /// `false` if the client must wait longer, and `true` if no client waits any more.
    fn let_in(&mut self) -> bool {
        let Some((mut stream, peer)) = self.held.take() else { return true };
        if let Some(spare) = spare() {
            (self.spare, self.scarce) = (Some(spare), None);
            self.admit(Connection::new(stream, peer, self.options.limits));
            return true;
        }
        if self.scarce.is_some_and(|since| since.elapsed() < SCARCE) {
            self.held = Some((stream, peer));
            return false;
        }
        let limit = getrlimit(Resource::Nofile).current.and_then(|n| i64::try_from(n).ok());
        let mut word = NO_DESCRIPTORS.to_le_bytes().to_vec();
        word.integer(limit.unwrap_or(i64::MAX));
        let _ = stream.write(&word);
        log(|| tracing::warn!(%peer, "the store server has no descriptor left for a client"));
        drop(stream);
        self.spare = spare();
        true
    }

    /// Finds the address with the most connections, and returns the longest idle connection of this address. Returns
    /// `None` if this address is `newcomer`, or has at most one connection more than `newcomer`.
    fn crowded_out(&self, newcomer: Home) -> Option<usize> {
        let mut counts: HashMap<Home, usize> = HashMap::new();
        self.clients.values().for_each(|c| *counts.entry(home(c.peer.ip())).or_default() += 1);
        let (largest, count) = counts.iter().max_by_key(|(_, count)| **count).map(|(home, count)| (*home, *count))?;
        if largest == newcomer || count <= counts.get(&newcomer).copied().unwrap_or(0) + 1 {
            return None;
        }
        let of_it = self.clients.iter().filter(|(_, c)| home(c.peer.ip()) == largest);
        of_it.min_by_key(|(_, c)| c.active).map(|(id, _)| *id)
    }

    fn admit(&mut self, mut connection: Connection) {
        let id = self.next_id;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(e) = self.poll.registry().register(&mut connection.stream, Token(id), interest) {
            log(|| tracing::warn!(error = %e, "the store server cannot watch a connection"));
            return;
        }
        // Errors are ignored: neither option is needed for correctness.
        let socket = SockRef::from(&connection.stream);
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)));
        self.next_id += 1;
        let due = Instant::now() + self.options.handshake_timeout;
        connection.due = Some(due);
        self.due.insert((due, id));
        self.keyspace.welcome(id, home(connection.peer.ip()));
        self.clients.insert(id, connection);
        self.unvalidated.insert(id);
        self.strangers.insert(id);
        self.ready.push_back(id);
        while self.unvalidated.len() > self.options.max_unvalidated
            && let Some(oldest) = self.unvalidated.first().copied()
        {
            self.close(oldest, "too many connections that have not validated");
        }
    }

    /// Gives one of the busy clients a turn, unless the busy clients have used too much CPU time.
    fn go_on(&mut self) {
        let now = Instant::now();
        if self.busy.is_empty() || self.even_at > now + BURST {
            return;
        }
        let before = cpu_time();
        self.serve_busy();
        self.even_at = self.even_at.max(now) + 2 * cpu_time().saturating_sub(before);
    }

    /// Reduces the debt of the next busy client by the work of one turn. If no debt remains, gives this client a turn.
    fn serve_busy(&mut self) {
        let Some(id) = self.busy.pop_front() else { return };
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.debt = client.debt.saturating_sub(WORK_PER_TURN);
        if client.debt > 0 {
            self.busy.push_back(id);
            return;
        }
        client.busy = false;
        self.serve(id);
    }

    fn serve(&mut self, id: usize) {
        if self.clients.get(&id).is_none_or(|client| client.busy) {
            return;
        }
        let Some(mut client) = self.clients.remove(&id) else { return };
        let kept = self.exchange(id, &mut client);
        self.buffered = self.buffered + client.footprint() - client.accounted;
        client.accounted = client.footprint();
        if client.validated() {
            self.unvalidated.remove(&id);
            self.set_due(id, &mut client);
        }
        if client.member {
            self.strangers.remove(&id);
        }
        if let Ok(true) = kept {
            client.busy = true;
            self.busy.push_back(id);
        }
        self.clients.insert(id, client);
        if let Err(why) = kept {
            self.close(id, &why);
        }
        while self.buffered > self.options.limits.buffers
            && let Some(holder) = self.holder()
        {
            self.close(
                holder,
                "the server's buffers are full, and this client has held a large part of them for the longest time",
            );
        }
        for other in std::mem::take(&mut self.woken) {
            if let Some(client) = self.clients.get_mut(&other) {
                client.out.push(STOP_WAITING);
                self.ready.push_back(other);
            }
        }
    }

    /// Returns the connection with the earliest due time, among those that hold at least half of the average number of
    /// buffered bytes. If none of these has a due time, returns the connection that holds the most bytes.
    fn holder(&self) -> Option<usize> {
        let large =
            |id: &usize| self.clients.get(id).is_some_and(|c| 2 * c.accounted * self.clients.len() >= self.buffered);
        let due = self.due.iter().map(|(_, id)| *id).find(large);
        due.or_else(|| self.clients.iter().max_by_key(|(_, c)| c.accounted).map(|(id, _)| *id))
    }

    /// If the server waits for the client, sets the time by which the client must make progress. Progress extends that
    /// time.
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

    /// Reads, executes and answers until there is nothing to do now, or until the turn has ended. Returns whether the
    /// turn has ended.
    fn exchange(&mut self, id: usize, client: &mut Connection) -> Result<bool, String> {
        let EventLoop { keyspace, woken, buffer, .. } = self;
        let (task, member) = (client.task.take(), client.member);
        let mut turn = Turn { id, keyspace, woken, task, work: 0, member };
        let more = turn.run(client, buffer)?;
        let Turn { task, work, member, .. } = turn;
        (client.task, client.member) = (task, member);
        if work > 0 {
            client.active = Instant::now();
        }
        client.debt += work.saturating_sub(WORK_PER_TURN);
        Ok(more || client.debt > 0)
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.close(id, "the client did not do the handshake, complete a request or read an answer in time");
        }
    }

    /// Closes a client's connection; `why` is empty if the client itself left.
    fn close(&mut self, id: usize, why: &str) {
        let Some(client) = self.clients.remove(&id) else { return };
        self.buffered -= client.accounted;
        self.keyspace.leave(id);
        self.unvalidated.remove(&id);
        self.strangers.remove(&id);
        if let Some(due) = client.due {
            self.due.remove(&(due, id));
        }
        if !why.is_empty() && self.warned.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.warned = Some(Instant::now());
            log(|| tracing::warn!(peer = %client.peer, why, "store connection closed"));
        }
    }
}

pub(super) struct Turn<'a> {
    pub(super) id: usize,
    pub(super) keyspace: &'a mut Keyspace,
    pub(super) woken: &'a mut Vec<usize>,
    /// The request about many keys that is partly done.
    pub(super) task: Option<Task>,
    pub(super) work: usize,
    pub(super) member: bool,
}

impl Turn<'_> {
    pub(super) fn run(&mut self, client: &mut Connection, buffer: &mut [u8]) -> Result<bool, String> {
        let (mut on, mut taken) = (true, 0);
        loop {
            if client.flush().map_err(|e| e.to_string())? {
                return Ok(true);
            }
            if client.congested() {
                // The socket is full; its next writable event continues from here.
                return Ok(false);
            }
            if self.work >= WORK_PER_TURN {
                return Ok(true);
            }
            if self.task.is_some() {
                self.go_on(&mut client.out).map_err(|e| e.to_string())?;
                on = true;
                continue;
            }
            if !on || taken >= BYTES_PER_TURN {
                return Ok(true);
            }
            if client.has_backlog() {
                on = client.parse(&[], |request, out| self.execute(request, out)).map_err(|e| e.to_string())?;
                continue;
            }
            match client.read(buffer).map_err(|e| e.to_string())? {
                None => return Ok(false),
                Some(0) => return Err(String::new()),
                Some(n) => {
                    taken += n;
                    let bytes = &buffer[..n];
                    on = client.parse(bytes, |request, out| self.execute(request, out)).map_err(|e| e.to_string())?;
                }
            }
        }
    }

    /// Executes a request. Returns whether there is time for another request.
    fn execute(&mut self, request: Request, out: &mut Vec<u8>) -> Result<bool, Refusal> {
        self.work += 1;
        self.member |= request.takes_part();
        let before = out.len();
        self.task = self.keyspace.apply(self.id, request, out, self.woken)?;
        self.work += (out.len() - before) / ANSWER_PER_WORK;
        self.go_on(out)?;
        Ok(self.task.is_none() && self.work < WORK_PER_TURN)
    }

    /// Continues the request about many keys while the turn lasts.
    fn go_on(&mut self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let Some(task) = self.task.take() else { return Ok(()) };
        let whole = WORK_PER_TURN.saturating_sub(self.work);
        let (mut budget, before) = (whole, out.len());
        self.task = self.keyspace.go_on(self.id, task, &mut budget, out, self.woken)?;
        self.work += whole - budget + (out.len() - before) / ANSWER_PER_WORK;
        Ok(())
    }
}

fn is_reserved(descriptor: i32) -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return false };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    usize::try_from(descriptor).is_ok_and(|n| n >= limit - (limit / 4).min(RESERVE))
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn no_descriptors(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
