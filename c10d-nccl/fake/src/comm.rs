//! Communicators. Each is a process group of the CPU backend, and has a handle.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use c10d_core::{Builder, ProcessGroup, Result};
use c10d_rendezvous::TcpStore;
use c10d_rendezvous::TcpStoreServer;
use c10d_rendezvous::tcp_store::ServerOptions;
use parking_lot::{Condvar, Mutex};

use crate::fault;
use crate::world::Work;

pub(crate) const IN_PROGRESS: i32 = 7;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Comm {
    pub(crate) rank: u32,
    pub(crate) size: u32,
    pub(crate) device: u16,
    /// The port of the store through which the communicator's ranks connected. A derived communicator has the port of
    /// its parent.
    port: u16,
    group: Mutex<Option<ProcessGroup>>,
    state: AtomicI32,
    /// Work that runs when the caller has queried the state this many more times.
    later: Mutex<Option<(u64, Work)>>,
    pub(crate) launches: AtomicU64,
    /// The number of launches whose work is not finished.
    flying: Mutex<u64>,
    changed: Condvar,
    aborted: AtomicBool,
    finalized: AtomicBool,
    /// The factors of the premultiplied sums that were made; `None` for a sum that was destroyed.
    pub(crate) factors: Mutex<Vec<Option<f64>>>,
    pub(crate) words: Mutex<String>,
}

static COMMS: LazyLock<Mutex<HashMap<u64, Arc<Comm>>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(crate) fn get(handle: u64) -> Option<Arc<Comm>> {
    COMMS.lock().get(&handle).cloned()
}

pub(crate) fn take(handle: u64) -> Option<Arc<Comm>> {
    COMMS.lock().remove(&handle)
}

/// Makes a store through which ranks can connect. Returns its port.
pub(crate) fn meeting() -> Result<u16> {
    let server = TcpStoreServer::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ServerOptions::default())?;
    let port = server.local_addr().port();
    // The server runs as long as the process, since ranks may connect at any later time.
    std::mem::forget(server);
    Ok(port)
}

impl Comm {
    fn new(rank: u32, size: u32, device: u16, port: u16) -> Arc<Comm> {
        Arc::new(Comm {
            rank,
            size,
            device,
            port,
            group: Mutex::default(),
            state: AtomicI32::new(IN_PROGRESS),
            later: Mutex::default(),
            launches: AtomicU64::new(0),
            flying: Mutex::default(),
            changed: Condvar::new(),
            aborted: AtomicBool::new(false),
            finalized: AtomicBool::new(false),
            factors: Mutex::default(),
            words: Mutex::default(),
        })
    }

    /// Gives the communicator a handle, and returns it.
    fn entered(self: Arc<Comm>) -> u64 {
        let handle = 0x70_0000 + NEXT.fetch_add(1, Ordering::Relaxed) * 16;
        COMMS.lock().insert(handle, self);
        handle
    }

    pub(crate) fn begin(port: u16, rank: u32, size: u32, device: u16) -> u64 {
        let comm = Comm::new(rank, size, device, port);
        let this = comm.clone();
        std::thread::spawn(move || {
            if fault::is("init", "progress", rank) {
                fault::hang();
            }
            let made = TcpStore::connect("127.0.0.1", port, Instant::now() + PATIENCE).and_then(|store| {
                let builder = Builder::new().providers(&[&c10d_gloo_like::PROVIDER]).name("fake").rank(rank).size(size);
                builder.store(Arc::new(store)).timeout(PATIENCE).build()
            });
            this.met(made);
        });
        comm.entered()
    }

    /// Begins to derive a communicator. If this rank is a member of the new communicator, another thread writes the new
    /// handle to `new`, after the caller has queried this communicator's state once.
    ///
    /// # Safety
    /// `new` is valid until this communicator is ready again, or for ever if it never is.
    pub(crate) unsafe fn derive(
        self: &Arc<Comm>,
        new: *mut u64,
        make: impl FnOnce(&ProcessGroup) -> Result<Option<ProcessGroup>> + Send + 'static,
    ) {
        // SAFETY: the caller guarantees that `new` is valid.
        let new: &'static AtomicU64 = unsafe { AtomicU64::from_ptr(new) };
        new.store(0, Ordering::Release);
        let parent = self.clone();
        let make = move || {
            let made = parent.group().map_or(Ok(None), |group| make(&group));
            match made {
                Ok(made) => {
                    if let Some(group) = made {
                        let child = Comm::new(group.rank(), group.size(), parent.device, parent.port);
                        child.met(Ok(group));
                        new.store(child.entered(), Ordering::Release);
                    }
                    parent.set(0);
                }
                Err(e) => parent.fail(6, &e.to_string()),
            }
        };
        self.later(1, move || drop(std::thread::spawn(make)));
    }

    /// Marks the communicator as in progress. The work runs when the state has been queried `asks` times.
    pub(crate) fn later(&self, asks: u64, work: impl FnOnce() + Send + 'static) {
        self.set(IN_PROGRESS);
        *self.later.lock() = Some((asks, Box::new(work)));
    }

    /// Returns the state. This counts as one query for `later`.
    pub(crate) fn ask(&self) -> i32 {
        let due = {
            let mut later = self.later.lock();
            later.iter_mut().for_each(|(asks, _)| *asks -= 1);
            later.take_if(|(asks, _)| *asks == 0)
        };
        if let Some((_, work)) = due {
            work();
        }
        self.state()
    }

    /// Whether the device has unfinished work.
    pub(crate) fn is_at_work(&self) -> bool {
        *self.flying.lock() > 0
    }

    /// Called when the ranks have connected, or when this has failed.
    fn met(&self, made: Result<ProcessGroup>) {
        match made {
            Ok(group) => {
                *self.group.lock() = Some(group);
                self.set(0);
            }
            Err(e) => self.fail(6, &e.to_string()),
        }
    }

    pub(crate) fn fail(&self, code: i32, words: &str) {
        *self.words.lock() = words.to_owned();
        self.set(code);
    }

    pub(crate) fn set(&self, state: i32) {
        self.state.store(state, Ordering::Release);
    }

    pub(crate) fn state(&self) -> i32 {
        if self.finalized.load(Ordering::Acquire) && *self.flying.lock() > 0 {
            return IN_PROGRESS;
        }
        self.state.load(Ordering::Acquire)
    }

    pub(crate) fn group(&self) -> Option<ProcessGroup> {
        self.group.lock().clone()
    }

    pub(crate) fn launch(&self) -> u64 {
        *self.flying.lock() += 1;
        self.launches.fetch_add(1, Ordering::Relaxed)
    }

    fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Called when the work of a launch is finished.
    pub(crate) fn landed(&self) {
        *self.flying.lock() -= 1;
        self.changed.notify_all();
    }

    pub(crate) fn finalize(&self) {
        self.finalized.store(true, Ordering::Release);
    }

    pub(crate) fn is_finalized(&self) -> bool {
        self.finalized.load(Ordering::Acquire)
    }

    /// Waits until each other rank of the communicator in this process has made a later launch than this one, or does
    /// not exist any more.
    pub(crate) fn let_others_go_on(&self, launch: u64) {
        let waits = |c: &Arc<Comm>| c.port == self.port && c.rank != self.rank && c.launches() <= launch + 1;
        while COMMS.lock().values().any(waits) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Blocks until the communicator is aborted.
    pub(crate) fn stick(&self) {
        let mut flying = self.flying.lock();
        while !self.aborted.load(Ordering::Acquire) {
            self.changed.wait(&mut flying);
        }
    }

    pub(crate) fn abort(&self) {
        {
            let _flying = self.flying.lock();
            self.aborted.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        if let Some(group) = self.group.lock().take() {
            group.abort("ncclCommAbort");
        }
        // The real function also waits until the communicator's CUDA kernels have ended.
        let mut flying = self.flying.lock();
        while *flying > 0 {
            self.changed.wait(&mut flying);
        }
    }
}
