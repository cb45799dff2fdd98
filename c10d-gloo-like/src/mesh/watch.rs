//! The watcher: one thread per process that sleeps until there is an event on a control connection of any group.
//!
//! The watcher answers questions of peers even while all other threads are busy, and notices at once when a peer's
//! process ends. A process starts its watcher with its first connection; a forked child has its own.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Phase, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// How long the watcher keeps a connection that this side has closed, for the peer to read the goodbye. This time is
/// longer than any scheduling delay.
const LINGER: Duration = Duration::from_secs(5);

/// How long other ranks have to report whether the peer of an ended connection is alive. The watcher notices the end of
/// a process within this time. So a watched process that has not ended by then counts as alive.
const UNSURE: Duration = Duration::from_millis(80);

/// The watcher's number for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Token(u64);

/// A watched connection and the process at its other end.
pub(super) trait Watched: Send + Sync {
    fn fd(&self) -> BorrowedFd<'_>;
    /// The descriptor of the peer's process, if it can be watched.
    fn life(&self) -> Option<BorrowedFd<'_>>;
    fn ready(&self, readable: bool, writable: bool) -> Next;
    /// Reads the bytes that the peer has sent, then handles the end of its process.
    fn peer_ended(&self) -> Next;
    /// Decides whether the peer is alive. Called 80 ms after [`Next::Unsure`].
    fn must_decide(&self);
    /// Handles an error after which the watcher forgets the connection.
    fn failed(&self, error: Error);
}

/// The watcher's next action for a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Watch,
    Forget,
    /// No more bytes will arrive. [`Watched::must_decide`] follows after 80 ms.
    Unsure,
}

const WAKE: u64 = 0;
/// Set in the token of an event that is about the peer's process.
const LIFE: u64 = 1 << 63;

struct Watch {
    epoll: OwnedFd,
    /// Readable when the watcher must check its deadlines again.
    wake: OwnedFd,
    connections: Mutex<Table>,
}

struct Table {
    next: u64,
    open: HashMap<u64, Entry>,
    /// The actions to run later, with their times.
    later: Vec<(Instant, Act)>,
}

type Act = Box<dyn FnOnce() + Send>;

struct Entry {
    connection: Arc<dyn Watched>,
    /// The time at which a closed or ended connection is dropped.
    until: Option<Instant>,
}

const WATCH: &str = "cannot watch the peers' connections";

fn refused(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Resource, WATCH).caused_by(e).phase(Phase::Connect)
}

#[derive(Default)]
struct Start {
    watch: OnceLock<Arc<Watch>>,
    starting: Mutex<()>,
}

/// Returns the process's watcher, which the first call starts. If the start fails, the next group tries again.
fn watcher() -> Result<&'static Arc<Watch>> {
    static START: PerProcess<Start> = PerProcess::new();
    let start = START.get();
    if let Some(watch) = start.watch.get() {
        return Ok(watch);
    }
    let _starting = start.starting.lock();
    if let Some(watch) = start.watch.get() {
        return Ok(watch);
    }
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(refused)?;
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(refused)?;
    epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN).map_err(refused)?;
    let table = Table { next: WAKE + 1, open: HashMap::new(), later: Vec::new() };
    let watch = Arc::new(Watch { epoll, wake, connections: Mutex::new(table) });
    let thread = watch.clone();
    std::thread::Builder::new()
        .name("c10d-watch".into())
        .stack_size(256 << 10)
        .spawn(move || thread.run())
        .map_err(|e| Error::no_thread(WATCH, e).phase(Phase::Connect))?;
    Ok(start.watch.get_or_init(|| watch))
}

/// Starts to watch the connection that `make` builds.
pub(super) fn watch<C: Watched + 'static>(make: impl FnOnce(Token) -> C) -> Result<Arc<C>> {
    let watch = watcher()?;
    let mut table = watch.connections.lock();
    let token = table.next;
    table.next += 1;
    let connection = Arc::new(make(Token(token)));
    epoll::add(&watch.epoll, connection.fd(), EventData::new_u64(token), EventFlags::IN | EventFlags::RDHUP)
        .map_err(refused)?;
    if let Some(life) = connection.life()
        && let Err(e) = epoll::add(&watch.epoll, life, EventData::new_u64(token | LIFE), EventFlags::IN)
    {
        // The descriptor that the peer sent is not that of a process, or memory is short. The end of the peer's process
        // still ends the connection, unless a forked child has a copy of the socket.
        tracing::debug!("a peer's process cannot be watched: {e}");
    }
    table.open.insert(token, Entry { connection: connection.clone(), until: None });
    Ok(connection)
}

/// Sets whether the watcher calls [`Watched::ready`] when the connection can write again.
pub(super) fn want_write(token: Token, fd: BorrowedFd<'_>, wanted: bool) {
    if let Ok(watch) = watcher() {
        let write = if wanted { EventFlags::OUT } else { EventFlags::empty() };
        // Fails only if the watcher has dropped the connection.
        let _ =
            epoll::modify(&watch.epoll, fd, EventData::new_u64(token.0), EventFlags::IN | EventFlags::RDHUP | write);
    }
}

/// Lets the watcher drop a connection that this side has closed, when the peer has closed its side, and at the latest
/// after [`LINGER`].
pub(super) fn linger(token: Token) {
    if let Ok(watch) = watcher() {
        if let Some(entry) = watch.connections.lock().open.get_mut(&token.0) {
            entry.until = Some(Instant::now() + LINGER);
        }
        // The write fails only if the counter is full, and then the watcher wakes up anyway.
        let _ = rustix::io::write(&watch.wake, &1u64.to_ne_bytes());
    }
}

/// Runs `act` on the watcher's thread at this time. Without a watcher, `act` runs at once on this thread.
pub(super) fn at(time: Instant, act: impl FnOnce() + Send + 'static) {
    match watcher() {
        Ok(watch) => {
            watch.connections.lock().later.push((time, Box::new(act)));
            let _ = rustix::io::write(&watch.wake, &1u64.to_ne_bytes());
        }
        Err(_) => act(),
    }
}

impl Watch {
    fn run(&self) {
        let mut events: Vec<Event> = Vec::with_capacity(64);
        loop {
            let until = self.expire();
            let left = until.map(|until| {
                let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
            });
            events.clear();
            // Only a signal can make the wait fail.
            if epoll::wait(&self.epoll, spare_capacity(&mut events), left.as_ref()).is_err() {
                continue;
            }
            for event in &events {
                let (token, flags) = (event.data.u64(), event.flags);
                if token == WAKE {
                    let _ = rustix::io::read(&self.wake, &mut [0; 8][..]);
                } else {
                    self.ready(token, flags);
                }
            }
        }
    }

    fn ready(&self, token: u64, flags: EventFlags) {
        let (ended, token) = (token & LIFE != 0, token & !LIFE);
        let Some(connection) = self.connections.lock().open.get(&token).map(|e| e.connection.clone()) else { return };
        let writable = flags.contains(EventFlags::OUT);
        let readable = flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let next = catch_unwind(AssertUnwindSafe(|| match ended {
            true => connection.peer_ended(),
            false => connection.ready(readable, writable),
        }));
        let next = next.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(|t| (*t).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            connection.failed(Error::new(ErrorKind::Internal, format!("the watcher panicked: {text}")));
            Next::Forget
        });
        match next {
            Next::Watch => {}
            Next::Forget => self.forget(token),
            Next::Unsure => self.unsure(token),
        }
    }

    /// Handles a connection that ended without a goodbye: for 80 ms, the watcher watches only the peer's process.
    fn unsure(&self, token: u64) {
        let mut table = self.connections.lock();
        let end = Instant::now() + UNSURE;
        let Some(entry) = table.open.get_mut(&token) else { return };
        let connection = entry.connection.clone();
        entry.until = Some(end);
        let _ = epoll::delete(&self.epoll, connection.fd());
        table.later.push((end, Box::new(move || connection.must_decide())));
    }

    fn forget(&self, token: u64) {
        let entry = self.connections.lock().open.remove(&token);
        if let Some(entry) = entry {
            // Other threads may keep the descriptors open, and an open descriptor stays in the epoll set.
            let _ = epoll::delete(&self.epoll, entry.connection.fd());
            if let Some(life) = entry.connection.life() {
                let _ = epoll::delete(&self.epoll, life);
            }
        }
    }

    /// Drops connections whose deadline has passed, and runs due actions. Returns the time at which it must run
    /// again; `None` if there is no deadline.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let (late, due, next) = {
            let mut table = self.connections.lock();
            let due: Vec<Act> = table.later.extract_if(.., |(time, _)| *time <= now).map(|(_, act)| act).collect();
            let deadlines = || table.open.iter().filter_map(|(token, e)| Some((*token, e.until?)));
            let late: Vec<u64> = deadlines().filter(|(_, t)| *t <= now).map(|(token, _)| token).collect();
            let times = deadlines().map(|(_, t)| t).chain(table.later.iter().map(|(time, _)| *time));
            let next = times.filter(|t| *t > now).min();
            (late, due, next)
        };
        for act in due {
            let _ = catch_unwind(AssertUnwindSafe(act));
        }
        late.into_iter().for_each(|token| self.forget(token));
        next
    }
}
