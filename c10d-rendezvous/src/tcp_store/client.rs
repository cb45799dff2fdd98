//! The client: PyTorch's verbs, each with a deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Result, Store};
use parking_lot::Mutex;

use super::link::{GRACE, Link};
use super::protocol::{Command, Write};
use super::{Limits, TcpStoreServer, resolve};

/// Idle connections kept for later calls.
const IDLE: usize = 4;
/// One attempt to connect, and the pauses between attempts.
const ATTEMPT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long the server of this process serves on after its own client left.
const LINGER: Duration = Duration::from_secs(5);

/// A client of a TCPStore server, PyTorch's or [`TcpStoreServer`]. Clones share their connections.
///
/// Keys are prefixed with `/` as PyTorch's client does. Calls from several threads run side by side, each on a
/// connection of its own; writing verbs return when the server has executed them. A connection that failed or timed out
/// is replaced at the next call.
#[derive(Clone)]
pub struct TcpStore(Arc<Shared>);

/// See [`TcpStore::downgrade`].
pub(crate) struct WeakStore(Weak<Shared>);

impl WeakStore {
    pub(crate) fn upgrade(&self) -> Option<TcpStore> {
        self.0.upgrade().map(TcpStore)
    }
}

struct Shared {
    addr: SocketAddr,
    limits: Limits,
    idle: Mutex<Vec<Link>>,
    hosted: Option<TcpStoreServer>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.idle.get_mut().clear();
        if let Some(server) = self.hosted.take() {
            server.drain(LINGER);
        }
    }
}

impl TcpStore {
    /// Connects, trying again until the deadline: the server may start later.
    pub fn connect(host: &str, port: u16, deadline: Instant) -> Result<TcpStore> {
        let began = Instant::now();
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            attempts += 1;
            let last = match TcpStore::attempt(host, port, deadline.min(Instant::now() + ATTEMPT)) {
                Ok((addr, link)) => return Ok(TcpStore::with(addr, vec![link], None)),
                Err(e) => e,
            };
            // Ranks that start together should not knock together.
            let jitter = Instant::now().duration_since(began).subsec_nanos() % 1000;
            let nap = pause.mul_f64(0.5 + f64::from(jitter) / 1000.0);
            if Instant::now() + nap >= deadline {
                let what = format!(
                    "cannot reach the store at {host}:{port}: {attempts} attempts in {:.3?}; is the process that hosts it \
                     (rank 0, or the launcher) running and reachable?",
                    began.elapsed()
                );
                return Err(Error::new(ErrorKind::Store, what).source(last));
            }
            std::thread::sleep(nap);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn attempt(host: &str, port: u16, deadline: Instant) -> io::Result<(SocketAddr, Link)> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for addr in resolve(host, port, deadline)? {
            match Link::open(addr, deadline) {
                Ok(link) => return Ok((addr, link)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// A client of a server that lives as long as this client and its clones, and then until the others have left, at
    /// most five seconds.
    pub fn hosting(server: TcpStoreServer, deadline: Instant) -> Result<TcpStore> {
        let mut addr = server.local_addr();
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let link = Link::open(addr, deadline).map_err(|e| {
            Error::new(ErrorKind::Store, format!("cannot reach this process's own store at {addr}")).source(e)
        })?;
        Ok(TcpStore::with(addr, vec![link], Some(server)))
    }

    /// A handle that keeps neither client nor server alive.
    pub(crate) fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.0))
    }

    fn with(addr: SocketAddr, idle: Vec<Link>, hosted: Option<TcpStoreServer>) -> TcpStore {
        TcpStore(Arc::new(Shared { addr, limits: Limits::default(), idle: Mutex::new(idle), hosted }))
    }

    /// The server's address.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Appends an item to a queue.
    pub fn queue_push(&self, queue: &str, item: &[u8], deadline: Instant) -> Result {
        self.write(Command::QueuePush, queue, item, deadline)
    }

    /// Takes the oldest item of a queue, waiting for one.
    pub fn queue_pop(&self, queue: &str, deadline: Instant) -> Result<Vec<u8>> {
        loop {
            self.wait(&[queue], deadline)?;
            // Another consumer may have been faster.
            if let Some(item) = self.queue_try_pop(queue, deadline.max(Instant::now() + GRACE))? {
                return Ok(item);
            }
        }
    }

    /// Takes the oldest item of a queue, if it has one.
    pub fn queue_try_pop(&self, queue: &str, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let request = self.request(Command::QueuePop, queue)?;
        self.call("pop from", &[queue], deadline, |link| {
            link.send(&request, deadline)?;
            if link.integer(deadline)? > 0 { link.string(deadline).map(Some) } else { Ok(None) }
        })
    }

    /// How many items a queue has.
    pub fn queue_len(&self, queue: &str, deadline: Instant) -> Result<u64> {
        let request = self.request(Command::QueueLen, queue)?;
        self.ask("measure", &[queue], &request, deadline).map(|n| n as u64)
    }

    /// The names of all keys that clients have set, in any order.
    pub fn list_keys(&self, deadline: Instant) -> Result<Vec<String>> {
        let keys = self.call("list", &[], deadline, |link| {
            link.send(&[Command::ListKeys as u8], deadline)?;
            let n = link.length(1 << 30, deadline)?;
            (0..n).map(|_| link.string(deadline)).collect::<io::Result<Vec<_>>>()
        })?;
        let name = |key: &Vec<u8>| Some(String::from_utf8_lossy(key.strip_prefix(b"/")?).into_owned());
        Ok(keys.iter().filter_map(name).collect())
    }

    /// Waits until `world` clients have called this. A key serves one barrier; an arrival counts even if it timed out.
    pub fn barrier(&self, key: &str, world: u32, deadline: Instant) -> Result {
        let mut request = self.request(Command::Barrier, key)?;
        request.integer(world.into());
        if self.call("wait at", &[key], deadline, |link| link.wait(&request, deadline, GRACE))? {
            return Ok(());
        }
        Err(self.timed_out(&[key], &format!("fewer than {world} clients arrived at the barrier")))
    }

    /// Counts this process among the workers that a PyTorch process hosting the store waits for; gives the count so far.
    pub fn count_worker(&self, deadline: Instant) -> Result<i64> {
        let mut request = Vec::new();
        request.command(Command::Add);
        request.string(b"init/");
        request.integer(1);
        self.ask("join", &["init/"], &request, deadline)
    }

    /// Runs one exchange on a connection of its own, and keeps the connection if it went well.
    fn call<R>(
        &self,
        verb: &str,
        keys: &[&str],
        deadline: Instant,
        exchange: impl FnOnce(&mut Link) -> io::Result<R>,
    ) -> Result<R> {
        let failed = |e: io::Error| {
            let addr = self.0.addr;
            let keys = names(keys);
            let what = match e.kind() {
                io::ErrorKind::TimedOut => format!("timed out: the store at {addr} does not answer ({verb}{keys})"),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => format!(
                    "the store at {addr} closed the connection instead of answering ({verb}{keys}): it ended, or the \
                     request breaks its rules (size limits; add to what is not a 64-bit number)"
                ),
                io::ErrorKind::ConnectionRefused => format!("the store at {addr} is gone ({verb}{keys})"),
                _ => format!("the store at {addr} failed ({verb}{keys})"),
            };
            Error::new(ErrorKind::Store, what).source(e)
        };
        let mut link = match self.idle_link() {
            Some(link) => link,
            None => Link::open(self.0.addr, deadline).map_err(failed)?,
        };
        let out = exchange(&mut link).map_err(failed)?;
        let mut idle = self.0.idle.lock();
        if idle.len() < IDLE {
            idle.push(link);
        }
        Ok(out)
    }

    fn idle_link(&self) -> Option<Link> {
        loop {
            let link = self.0.idle.lock().pop()?;
            if link.usable() {
                return Some(link);
            }
        }
    }

    /// An exchange whose answer is one integer.
    fn ask(&self, verb: &str, keys: &[&str], request: &[u8], deadline: Instant) -> Result<i64> {
        self.call(verb, keys, deadline, |link| {
            link.send(request, deadline)?;
            link.integer(deadline)
        })
    }

    /// An exchange without an answer; a ping behind it tells that it was executed.
    fn tell(&self, verb: &str, keys: &[&str], mut request: Vec<u8>, deadline: Instant) -> Result {
        let nonce = std::process::id();
        request.ping(nonce);
        self.call(verb, keys, deadline, |link| {
            link.send(&request, deadline)?;
            link.pong(nonce, deadline)
        })
    }

    fn write(&self, command: Command, key: &str, value: &[u8], deadline: Instant) -> Result {
        let mut request = self.request(command, key)?;
        self.check_value(key, value)?;
        request.string(value);
        self.tell("write", &[key], request, deadline)
    }

    fn request(&self, command: Command, key: &str) -> Result<Vec<u8>> {
        let mut request = Vec::new();
        request.command(command);
        self.put_key(&mut request, key)?;
        Ok(request)
    }

    fn list_request(&self, command: Command, keys: &[&str]) -> Result<Vec<u8>> {
        self.check_count(keys.len())?;
        let mut request = Vec::new();
        request.command(command);
        request.integer(keys.len() as i64);
        for key in keys {
            self.put_key(&mut request, key)?;
        }
        self.check_size(request)
    }

    fn put_key(&self, request: &mut Vec<u8>, key: &str) -> Result {
        let (len, limit) = (key.len() + 1, self.0.limits.key);
        if len > limit {
            return Err(refused(format!("a key of {len} bytes is above the store's limit of {limit}")));
        }
        request.integer(len as i64);
        request.push(b'/');
        request.extend_from_slice(key.as_bytes());
        Ok(())
    }

    fn check_value(&self, key: &str, value: &[u8]) -> Result {
        let (len, limit) = (value.len(), self.0.limits.value);
        if len > limit {
            return Err(refused(format!(
                "a value of {len} bytes for key {key:?} is above the store's limit of {limit}"
            )));
        }
        Ok(())
    }

    fn check_count(&self, n: usize) -> Result {
        let limit = self.0.limits.list;
        if n > limit {
            return Err(refused(format!("{n} keys in one call are above the store's limit of {limit}")));
        }
        Ok(())
    }

    fn check_size(&self, request: Vec<u8>) -> Result<Vec<u8>> {
        // The server counts somewhat more than the bytes; half of its limit is safe.
        let limit = self.0.limits.request / 2;
        if request.len() > limit {
            return Err(refused(format!("a call of {} bytes is above the limit of {limit}; split it", request.len())));
        }
        Ok(request)
    }

    fn timed_out(&self, keys: &[&str], why: &str) -> Error {
        Error::new(ErrorKind::Store, format!("timed out at the store {}{}: {why}", self.0.addr, names(keys)))
    }

    /// Waits for the keys, then runs the second half of the verb on the same connection.
    fn wait_then<R>(
        &self,
        keys: &[&str],
        deadline: Instant,
        then: impl FnOnce(&mut Link, Instant) -> io::Result<R>,
    ) -> Result<R> {
        let request = self.list_request(Command::Wait, keys)?;
        let found = self.call("wait for", keys, deadline, |link| {
            if link.wait(&request, deadline, GRACE)? {
                // The keys may have come at the last moment.
                then(link, deadline.max(Instant::now() + GRACE)).map(Some)
            } else {
                Ok(None)
            }
        })?;
        found.ok_or_else(|| self.timed_out(keys, "no rank has set all of these keys"))
    }
}

impl Store for TcpStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.write(Command::Set, key, value, deadline)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        let request = self.request(Command::Get, key)?;
        self.wait_then(&[key], deadline, |link, deadline| {
            link.send(&request, deadline)?;
            link.string(deadline)
        })
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.wait_then(keys, deadline, |_, _| Ok(()))
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        let mut request = self.request(Command::Add, key)?;
        request.integer(delta);
        self.ask("add to", &[key], &request, deadline)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        let mut request = self.request(Command::CompareSet, key)?;
        for value in [expected, desired] {
            self.check_value(key, value)?;
            request.string(value);
        }
        self.call("compare and set", &[key], deadline, |link| {
            link.send(&request, deadline)?;
            link.string(deadline)
        })
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.write(Command::Append, key, value, deadline)
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        let request = self.list_request(Command::Check, keys)?;
        self.call("check", keys, deadline, |link| {
            link.send(&request, deadline)?;
            Ok(link.byte(deadline)? == 0)
        })
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        let request = self.request(Command::Delete, key)?;
        self.ask("delete", &[key], &request, deadline).map(|n| n > 0)
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.ask("count keys", &[], &[Command::NumKeys as u8], deadline).map(|n| n as u64)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        let request = self.list_request(Command::MultiGet, keys)?;
        self.wait_then(keys, deadline, |link, deadline| {
            link.send(&request, deadline)?;
            keys.iter().map(|_| link.string(deadline)).collect()
        })
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        self.check_count(pairs.len())?;
        let mut request = Vec::new();
        request.command(Command::MultiSet);
        request.integer(pairs.len() as i64);
        for (key, value) in pairs {
            self.put_key(&mut request, key)?;
            self.check_value(key, value)?;
            request.string(value);
        }
        let request = self.check_size(request)?;
        self.tell("write", &pairs.iter().map(|(key, _)| *key).collect::<Vec<_>>(), request, deadline)
    }
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::Store, what).rejected()
}

/// The first keys, as errors list them.
fn names(keys: &[&str]) -> String {
    let shown = keys.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    match keys.len() {
        0 => String::new(),
        n if n > 8 => format!(" {shown} and {} more", n - 8),
        _ => format!(" {shown}"),
    }
}
