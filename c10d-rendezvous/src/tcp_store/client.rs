//! The client: PyTorch's store methods, each with a deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use c10d_core::process::Process;
use c10d_core::sync::Mutex;
use c10d_core::waiting::{self, Reminder};
use c10d_core::{Error, ErrorKind, Result};

use super::link::{GRACE, Link, Refused};
use super::protocol::{Command, Write};
use super::{Limits, TcpStoreServer, resolve};

/// The number of idle connections that are kept for later calls.
const IDLE: usize = 4;
/// The time limit of one attempt to connect.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The first pause between attempts. Each further pause is about twice as long, up to about [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a call waits for a free descriptor.
const SCARCE: Duration = Duration::from_secs(1);
/// How long a server that this process hosts serves other clients after the process's own client was dropped.
const LINGER: Duration = Duration::from_secs(5);

/// A client of a TCPStore server, PyTorch's or [`TcpStoreServer`]. Clones share their connections.
///
/// The client puts `/` before each key, as PyTorch's client does. Calls from several threads run in parallel, each on
/// its own connection. Methods that write return when the server has executed the request. A connection that failed or
/// timed out is replaced at the next call. A forked child that uses its copy opens a connection for each call. Dropping
/// that copy affects neither the parent's client nor its server.
#[derive(Clone)]
pub struct TcpStore(Arc<Shared>);

/// A weak handle, which keeps neither client nor server alive.
pub(crate) struct WeakStore(Weak<Shared>);

impl WeakStore {
    pub(crate) fn upgrade(&self) -> Option<TcpStore> {
        self.0.upgrade().map(TcpStore)
    }
}

struct Shared {
    /// The process that owns the connections and the server.
    owner: Process,
    addr: SocketAddr,
    limits: Limits,
    idle: Mutex<Vec<Link>>,
    hosted: Option<TcpStoreServer>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.owner.is_current() {
            return;
        }
        self.idle.get_mut().clear();
        if let Some(server) = self.hosted.take() {
            server.drain(LINGER);
        }
    }
}

impl TcpStore {
    /// Connects to a server, which may start later: the call tries again until the deadline.
    ///
    /// # Errors
    ///
    /// `Store` if no server answered by the deadline. `Resource` if descriptors ran out, in this process or at the
    /// server, and none was free for 1 s. `InvalidArgument` if `C10D_WARN_AFTER` is not a number of seconds.
    pub fn connect(host: &str, port: u16, deadline: Instant) -> Result<TcpStore> {
        let began = Instant::now();
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        let mut cause: Option<io::Error> = None;
        let mut scarce_since = None;
        let mut reminder = Reminder::new(waiting::after(None)?);
        loop {
            attempts += 1;
            match TcpStore::attempt(host, port, deadline.min(Instant::now() + ATTEMPT)) {
                Ok((addr, link)) => return Ok(TcpStore::with(addr, vec![link], None)),
                // An earlier failure explains more than a timeout.
                Err(e) if e.kind() == io::ErrorKind::TimedOut && cause.is_some() => {}
                Err(e) => cause = Some(e),
            }
            let now = Instant::now();
            let scarce = match &cause {
                Some(e) if is_scarce(e) => *scarce_since.get_or_insert(now) + SCARCE <= now,
                _ => {
                    scarce_since = None;
                    false
                }
            };
            if now >= deadline || scarce {
                let address = format!("{host}:{port}");
                let what = format!(
                    "cannot reach the store at {address:?}: {attempts} attempts in {:.3?}; is the process that hosts it \
                     (rank 0, or the launcher) running and reachable?",
                    began.elapsed()
                );
                return Err(match cause {
                    Some(cause) => failed(what, cause),
                    None => Error::new(ErrorKind::Store, what),
                });
            }
            if reminder.is_due() {
                let why = cause.as_ref().map_or(String::new(), |cause| format!(" ({cause})"));
                reminder.say(&format!(
                    "waits for the store at {host}:{port}{why}; is the process that hosts it (rank 0, or the launcher) running \
                     and reachable?"
                ));
            }
            // The pauses differ, so that ranks that start together do not connect together again and again.
            let jitter = f64::from(now.duration_since(began).subsec_nanos() % 1000) / 1000.0;
            std::thread::sleep(pause.mul_f64(0.5 + jitter).min(deadline - now));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn attempt(host: &str, port: u16, deadline: Instant) -> io::Result<(SocketAddr, Link)> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        let addrs = resolve(host, port, deadline)?;
        for (i, addr) in addrs.iter().copied().enumerate() {
            // The addresses share the time until the deadline, because one of them may drop packets.
            let share = deadline.saturating_duration_since(Instant::now()) / (addrs.len() - i) as u32;
            match Link::open(addr, Instant::now() + share) {
                Ok(link) => return Ok((addr, link)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Returns a client that owns the server. The server lives as long as this client or a clone of it. After that, the
    /// server serves the other clients until they have left, for at most five seconds.
    pub fn hosting(server: TcpStoreServer, deadline: Instant) -> Result<TcpStore> {
        let (addr, link) = own_link(&server, deadline)?;
        Ok(TcpStore::with(addr, vec![link], Some(server)))
    }

    /// Returns a client of a server in this process. The caller keeps the server alive.
    pub(crate) fn of_this_process(server: &TcpStoreServer, deadline: Instant) -> Result<TcpStore> {
        let (addr, link) = own_link(server, deadline)?;
        Ok(TcpStore::with(addr, vec![link], None))
    }

    pub(crate) fn hang_up(&self) {
        self.0.idle.lock().clear();
    }

    pub(crate) fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.0))
    }

    fn with(addr: SocketAddr, idle: Vec<Link>, hosted: Option<TcpStoreServer>) -> TcpStore {
        let (owner, limits) = (Process::current(), Limits::default());
        TcpStore(Arc::new(Shared { owner, addr, limits, idle: Mutex::new(idle), hosted }))
    }

    /// Returns the server's address.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Runs one request and its answers on a connection that no other call uses. If the call succeeded, keeps the
    /// connection for later calls.
    pub(super) fn call<R>(
        &self,
        verb: &str,
        keys: &[&str],
        deadline: Instant,
        exchange: impl FnOnce(&mut Link) -> io::Result<R>,
    ) -> Result<R> {
        let refused = |e: io::Error| {
            let addr = self.0.addr;
            let keys = names(keys);
            let what = match e.kind() {
                io::ErrorKind::TimedOut => format!("timed out: the store at {addr} does not answer ({verb}{keys})"),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => format!(
                    "the store at {addr} closed the connection instead of answering ({verb}{keys}): the server \
                     ended, or the request violates its rules (a size limit, or an add to a value that is not a 64-bit \
                     number)"
                ),
                io::ErrorKind::ConnectionRefused => format!("the store at {addr} is gone ({verb}{keys})"),
                _ => format!("the store at {addr} failed ({verb}{keys})"),
            };
            failed(what, e)
        };
        let mut link = match self.idle_link() {
            Some(link) => link,
            None => opened(self.0.addr, deadline).map_err(refused)?,
        };
        let out = exchange(&mut link).map_err(refused)?;
        if !self.0.owner.is_current() {
            return Ok(out);
        }
        let mut idle = self.0.idle.lock();
        if idle.len() < IDLE {
            idle.push(link);
        }
        Ok(out)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn idle_link(&self) -> Option<Link> {
        if !self.0.owner.is_current() {
            return None;
        }
        loop {
            let link = self.0.idle.lock().pop()?;
            if link.usable() {
                return Some(link);
            }
        }
    }

    /// Sends a request whose answer is one integer.
    pub(super) fn ask(&self, verb: &str, keys: &[&str], request: &[u8], deadline: Instant) -> Result<i64> {
        self.call(verb, keys, deadline, |link| {
            link.send(request, deadline)?;
            link.integer(deadline)
        })
    }

    /// Sends a request that has no answer, followed by a ping. The answer to the ping shows that the request was
    /// executed.
    pub(super) fn run(&self, verb: &str, keys: &[&str], mut request: Vec<u8>, deadline: Instant) -> Result {
        let nonce = std::process::id();
        request.ping(nonce);
        self.call(verb, keys, deadline, |link| {
            link.send(&request, deadline)?;
            link.pong(nonce, deadline)
        })
    }

    pub(super) fn write(&self, command: Command, key: &str, value: &[u8], deadline: Instant) -> Result {
        let mut request = self.limits().request(command, key)?;
        self.limits().put_value(&mut request, key, value)?;
        self.run("write", &[key], request, deadline)
    }

    pub(super) fn timed_out(&self, keys: &[&str], why: &str) -> Error {
        Error::new(ErrorKind::Store, format!("timed out at the store {}{}: {why}", self.0.addr, names(keys)))
    }

    /// Waits for the keys, then calls `then` (for example, to get their values) with the same connection.
    pub(super) fn wait_then<R>(
        &self,
        keys: &[&str],
        deadline: Instant,
        then: impl FnOnce(&mut Link, Instant) -> io::Result<R>,
    ) -> Result<R> {
        let request = self.limits().list_request(Command::Wait, keys)?;
        let found = self.call("wait for", keys, deadline, |link| {
            if link.wait(&request, deadline, GRACE)? {
                // The keys may have appeared just before the deadline, so `then` gets some time in any case.
                then(link, deadline.max(Instant::now() + GRACE)).map(Ok)
            } else {
                self.absent(keys, link).map(Err)
            }
        })?;
        found.map_err(|absent| {
            let these = if absent.len() == 1 { "this key" } else { "these keys" };
            self.timed_out(&absent, &format!("no rank has set {these}"))
        })
    }

    /// Returns the keys that do not exist, for the error of a wait that timed out. Only the first 256 keys are checked;
    /// all further keys are returned.
    fn absent<'a>(&self, keys: &[&'a str], link: &mut Link) -> io::Result<Vec<&'a str>> {
        const FEW: usize = 256;
        let deadline = Instant::now() + GRACE;
        let asked = &keys[..keys.len().min(FEW)];
        let questions = asked.iter().map(|key| self.limits().list_request(Command::Check, &[key]));
        link.send(&questions.collect::<Result<Vec<_>>>().map_err(io::Error::other)?.concat(), deadline)?;
        let mut absent = Vec::new();
        for key in asked {
            if link.byte(deadline)? != 0 {
                absent.push(*key);
            }
        }
        absent.extend(&keys[asked.len()..]);
        Ok(absent)
    }
}

/// Opens a connection. If no descriptor is left, here or at the server, tries again for up to 1 s.
fn opened(addr: SocketAddr, deadline: Instant) -> io::Result<Link> {
    let until = deadline.min(Instant::now() + SCARCE);
    loop {
        match Link::open(addr, deadline) {
            Err(e) if is_scarce(&e) && Instant::now() + LONGEST_PAUSE / 10 < until => {
                std::thread::sleep(LONGEST_PAUSE / 10);
            }
            other => return other,
        }
    }
}

/// Whether descriptors ran out, here or at the server.
fn is_scarce(e: &io::Error) -> bool {
    Refused::is(e) || matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Makes the error of a failed request. If a resource ran out, the error says on which side.
fn failed(what: String, e: io::Error) -> Error {
    if Refused::is(&e) {
        return Error::new(ErrorKind::Resource, format!("{what}: {e}")).caused_by(e);
    }
    Error::new(ErrorKind::Store, what).caused_by(e)
}

fn own_link(server: &TcpStoreServer, deadline: Instant) -> Result<(SocketAddr, Link)> {
    let mut addr = server.local_addr();
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let link = Link::open(addr, deadline).map_err(|e| {
        Error::new(ErrorKind::Store, format!("cannot reach this process's own store at {addr}")).caused_by(e)
    })?;
    Ok((addr, link))
}

fn names(keys: &[&str]) -> String {
    let shown = keys.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    match keys.len() {
        0 => String::new(),
        n if n > 8 => format!(" {shown} and {} more", n - 8),
        _ => format!(" {shown}"),
    }
}
