//! The MPI world of this process: how MPI is started, and how each group gets a communicator.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use c10d_core::backend::GroupInit;
use c10d_core::panics::caught;
use c10d_core::process::{PerProcess, spawn};
use c10d_core::sync::{Condvar, Mutex, MutexGuard};
use c10d_core::{Error, ErrorKind, Phase, PrefixStore, Result, Store};

use crate::card::{Agreed, Card, WorldRank, agree};
use crate::health::all_is_well;
use crate::mpi::{Comm, Kind, Library, Mpi, at_exit, preload_fabric, unlink_segments, with_variables};
use crate::pmi::{self, Progress, Server, mapping};

/// The hint that selects how processes exchange addresses: through the group's store or through the launcher.
pub(crate) const BOOTSTRAP: &str = "mpi.bootstrap";
/// The hint that names the library's file.
pub(crate) const LIBRARY: &str = "mpi.lib";

/// MPI's communicator of all its processes, and this process's rank in it.
#[derive(Clone)]
pub(crate) struct World {
    comm: Comm,
    world_rank: WorldRank,
}

pub(crate) struct Member {
    pub(crate) mpi: Mpi,
    pub(crate) comm: Comm,
    /// The data that the ranks computed from all ranks' cards (see `Card`).
    pub(crate) agreed: Agreed,
}

/// The state of MPI in this process.
#[derive(Default)]
struct Runtime {
    world: Option<World>,
    /// Why MPI cannot be started in this process any more.
    broken: Option<Error>,
}

static RUNTIME: PerProcess<Mutex<Runtime>> = PerProcess::new();
/// The id of the process that started MPI, or 0 if MPI is not started. A forked child cannot use its parent's MPI.
static STARTED_IN: AtomicU32 = AtomicU32::new(0);

/// A group that this process is joining.
struct Joining([u8; 16]);

/// The sessions of the groups that this process is joining.
static JOINING: PerProcess<Mutex<BTreeSet<[u8; 16]>>> = PerProcess::new();

impl Joining {
    /// Records that this process joins a group. Returns `None` if another rank of this process is joining the same
    /// group.
    fn begin(session: [u8; 16]) -> Option<Joining> {
        let first = JOINING.get().lock().insert(session);
        first.then(|| Joining(session))
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        JOINING.get().lock().remove(&self.0);
    }
}

/// Makes the communicator of a group. Starts MPI first if this process has not started it.
pub(crate) fn join(init: &GroupInit) -> Result<Member> {
    let library = Library::get(init.hint(LIBRARY))?;
    let by_launcher = match init.hint(BOOTSTRAP) {
        // Open MPI uses PMIx, which this crate does not serve.
        None => library.kind == Kind::OpenMpi,
        Some("store") => false,
        Some("env") => true,
        Some(other) => return Err(Error::invalid(format!("{BOOTSTRAP} is {other:?}; it must be store or env"))),
    };
    let started_in = STARTED_IN.load(Ordering::Acquire);
    if started_in != 0 && started_in != std::process::id() {
        return Err(Error::unsupported(
            "MPI runs in the process that this one was forked from, and cannot be used in the child: start processes \
             instead of forking, or use cpu:gloo-like",
        ));
    }
    let Some(_joining) = Joining::begin(init.session) else {
        // This rank still exchanges its card, so that all ranks, including the other rank of this process, get the
        // error that two ranks are in one process.
        let both = agree(init, &Card::of_process(library, None));
        return Err(both
            .err()
            .unwrap_or_else(|| Error::new(ErrorKind::Internal, "two ranks of one process were not rejected")));
    };
    let mpi = Mpi::new(library);
    let late = || Error::new(ErrorKind::Timeout, "another group of this process is still starting MPI");
    let mut runtime = RUNTIME.get().try_lock_until(init.deadline).ok_or_else(late)?;
    if let Some(broken) = &runtime.broken {
        let mut error = broken.clone();
        error.report_mut().what += "; this process cannot start MPI again";
        return Err(error);
    }
    if runtime.world.is_none() && mpi.is_initialized()? {
        let comm = mpi.started_by_another()?;
        runtime.world = Some(World::of(mpi, comm, "the program's")?);
    }
    if runtime.world.is_none() && by_launcher {
        start(&mut runtime, init, mpi, None)?;
        // If a process ends without MPI_Finalize, its launcher considers it crashed, and ends all others.
        at_exit(finalize);
    }
    let mine = Card::of_process(library, runtime.world.as_ref().map(|world| world.world_rank.clone()));
    let agreed = agree(init, &mine)?;
    let world = match runtime.world.clone() {
        Some(world) => {
            drop(runtime);
            world
        }
        None => {
            let name = hex(&init.session);
            let progress = Arc::<Progress>::default();
            let server = Server {
                // MPI uses the store until the process ends, possibly after this group has ended.
                store: Arc::new(PrefixStore::new("pmi", init.lasting_store())),
                rank: init.rank,
                size: init.size,
                name,
                mapping: mapping(&agreed.hosts),
                deadline: init.deadline,
                progress,
            };
            start(&mut runtime, init, mpi, Some(server))?
        }
    };
    let ranks = agreed.world_ranks.clone().unwrap_or_else(|| (0..init.size).collect());
    // The tags of groups that a process makes at the same time should differ.
    let tag = u16::from_le_bytes([init.session[0], init.session[1]]);
    let (from, what) = (world.comm, "MPI_Comm_create_group");
    let made = within(init.deadline, what, move || mpi.create(from, &ranks, tag)).map_err(|e| match e {
        Some(e) => e,
        None => {
            let what = format!("{what} did not return in time: a rank of the group has not called it, or is dead");
            Error::new(ErrorKind::Timeout, what).phase(Phase::Connect).guilty(init.lost())
        }
    });
    Ok(Member { mpi, comm: made?, agreed })
}

/// How long MPI_Finalize may wait for other ranks when the program ends.
const FINALIZE: Duration = Duration::from_secs(10);

extern "C" fn finalize() {
    let is_ours = STARTED_IN.load(Ordering::Acquire) == std::process::id();
    if let (true, true, Some(library)) = (is_ours, all_is_well(), Library::loaded()) {
        let mpi = Mpi::new(library);
        let until = Instant::now() + FINALIZE;
        // A missing peer must not keep this process from ending.
        let _ = within(until, "MPI_Finalize", move || if FREES.wait(until) { mpi.finalize() } else { Ok(()) });
    }
}

/// The number of communicators that are being freed. MPI may be finalized only after they are freed.
struct Frees {
    running: Mutex<u32>,
    ended: Condvar,
}

static FREES: Frees = Frees { running: Mutex::new(0), ended: Condvar::new() };

impl Frees {
    /// Waits until no communicator is being freed. Returns `false` if a communicator is still being freed at `until`.
    fn wait(&self, until: Instant) -> bool {
        let mut running = self.running.lock();
        while *running > 0 {
            if self.ended.wait_until(&mut running, until).timed_out() {
                return false;
            }
        }
        true
    }
}

/// As long as this value exists, one communicator counts as being freed.
struct Free;

impl Free {
    fn begin() -> Free {
        *FREES.running.lock() += 1;
        Free
    }
}

impl Drop for Free {
    fn drop(&mut self) {
        *FREES.running.lock() -= 1;
        FREES.ended.notify_all();
    }
}

/// Frees a communicator. MPI may wait for the other ranks. Returns when the communicator is freed, or at `until`: the
/// thread that frees the communicator then continues alone.
pub(crate) fn free(mpi: Mpi, comm: Comm, until: Instant) {
    let running = Free::begin();
    let call = move || {
        let freed = mpi.free(comm);
        drop(running);
        freed
    };
    // If no thread can be started, the communicator stays until the program ends.
    let _ = within(until, "MPI_Comm_free", call);
}

/// Starts MPI. `server` answers the PMI requests of the library; if it is `None`, the launcher answers them.
fn start(runtime: &mut MutexGuard<'_, Runtime>, init: &GroupInit, mpi: Mpi, server: Option<Server>) -> Result<World> {
    let started = run_start(init, mpi, server);
    match &started {
        Ok(world) => runtime.world = Some(world.clone()),
        Err(e) => runtime.broken = Some(e.clone()),
    }
    started
}

fn run_start(init: &GroupInit, mpi: Mpi, server: Option<Server>) -> Result<World> {
    STARTED_IN.store(std::process::id(), Ordering::Release);
    let mut variables: Vec<(&'static str, Option<String>)> = preload_fabric(mpi.library())
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .map(|(name, value)| (name, Some(value)))
        .collect();
    let waits = server.as_ref().map(|s| (s.store.clone(), s.progress.clone()));
    let name = match &server {
        Some(server) => server.name.clone(),
        None => "the launcher's".to_owned(),
    };
    let mut theirs = None;
    if let Some(server) = server {
        let cannot = |e: std::io::Error| Error::new(ErrorKind::Resource, "no socket pair for PMI").caused_by(e);
        let (ours, socket) = UnixStream::pair().map_err(cannot)?;
        use std::os::fd::AsRawFd as _;
        let text = |n: u32| Some(n.to_string());
        variables.extend([
            ("PMI_FD", Some(socket.as_raw_fd().to_string())),
            ("PMI_RANK", text(server.rank)),
            ("PMI_SIZE", text(server.size)),
            ("PMI_PORT", None),
            ("PMI_ID", None),
            ("PMI_SPAWNED", None),
            // Without this, MPICH reports an ambiguity if a launcher has set PMIx variables, too.
            ("MPIR_CVAR_PMI_VERSION", Some("1".to_owned())),
        ]);
        theirs = Some(socket);
        spawn("c10d-mpi-pmi", move || server.run(ours))?;
    }
    let called = within(init.deadline, "MPI's start", move || {
        let comm = with_variables(&variables, || mpi.start());
        // Once the start has been called, the descriptor belongs to the library.
        std::mem::forget(theirs);
        comm
    });
    let comm = called.map_err(|e| match (e, &waits) {
        (Some(e), _) => e,
        (None, Some((store, progress))) => not_started(init, &**store, progress),
        (None, None) => Error::new(
            ErrorKind::Timeout,
            "MPI's start did not return in time: not all ranks that the launcher started have called it",
        ),
    })?;
    let world = World::of(mpi, comm, &name)?;
    if let Some((store, _)) = &waits {
        let started = &world.world_rank;
        if (started.rank, started.size) != (init.rank, init.size) {
            return Err(Error::new(
                ErrorKind::Rendezvous,
                format!(
                    "{} reports that this process is rank {} of {}, but it is rank {} of {}: the library does not use \
                     PMI-1; start the ranks by the library's own launcher, with the hint {BOOTSTRAP} = env",
                    mpi.library().version,
                    started.rank,
                    started.size,
                    init.rank,
                    init.size
                ),
            ));
        }
        // Once MPI has started on all ranks, all of them have opened the shared segments, so the segments' names can be
        // removed.
        let key = |rank: u32| format!("started/{rank}");
        store.set(&key(init.rank), b"", init.deadline)?;
        let keys: Vec<String> = (0..init.size).map(key).collect();
        store.wait(&keys.iter().map(String::as_str).collect::<Vec<_>>(), init.deadline)?;
        unlink_segments();
    }
    Ok(world)
}

/// Makes the error for a start of MPI that does not return. The error names the missing ranks.
fn not_started(init: &GroupInit, store: &dyn Store, progress: &Progress) -> Error {
    let base = "MPI's start did not return in time";
    let Some((round, failed)) = progress.waiting() else {
        return Error::new(ErrorKind::Timeout, format!("{base}, but no rank of the group is missing"))
            .phase(Phase::Connect);
    };
    let soon = Instant::now() + Duration::from_millis(500);
    let absent = pmi::absent(store, init.size, round, soon);
    let why = failed.map_or(String::new(), |e| format!(" ({})", e.report().what));
    let what = format!("{base}: in round {round} of PMI, ranks are missing{why}");
    Error::new(ErrorKind::Timeout, what).phase(Phase::Connect).guilty(absent)
}

impl World {
    fn of(mpi: Mpi, comm: Comm, name: &str) -> Result<World> {
        let (rank, size) = mpi.rank_and_size(comm)?;
        STARTED_IN.store(std::process::id(), Ordering::Release);
        Ok(World { comm, world_rank: WorldRank { world: name.to_owned(), rank, size } })
    }
}

/// Runs a call that may never return, on a new thread. Returns `Err(None)` if the call has not returned at the
/// deadline; the thread then stays blocked.
fn within<T: Send + 'static>(
    deadline: Instant,
    what: &'static str,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Option<Error>> {
    let (answer, answered) = channel();
    let run = move || {
        let result = caught(call);
        // The receiver may have stopped waiting.
        let _ = answer.send(result);
    };
    spawn("c10d-mpi-call", run).map_err(Some)?;
    match answered.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok(result)) => result.map_err(Some),
        Ok(Err(words)) => Err(Some(Error::new(ErrorKind::Internal, format!("{what} panicked: {words}")))),
        Err(RecvTimeoutError::Timeout) => Err(None),
        Err(RecvTimeoutError::Disconnected) => {
            Err(Some(Error::new(ErrorKind::Internal, format!("the thread of {what} ended without an answer"))))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
