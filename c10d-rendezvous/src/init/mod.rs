//! Init methods: by `env://`, `tcp://` or `file://`, a process gets its rank and finds the other ranks.

mod env;
mod host;
mod same_host;
mod url;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::store::deadline_after;
use c10d_core::{Error, ErrorKind, Phase, PrefixStore, Result, Store};

pub use c10d_core::backend::Joined;
pub(crate) use host::serve;

use crate::{FileStore, TcpStore};

/// The rank of this process, the world size, and how the ranks find each other.
#[derive(Debug, PartialEq)]
struct Membership {
    rank: u32,
    size: u32,
    meeting: Meeting,
    /// The prefix of this job's keys, which separates them from the keys of other users of the store.
    prefix: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Meeting {
    /// A server of this job, which rank 0 runs.
    Rank0 { host: String, port: u16 },
    /// A server that another process runs.
    Server { host: String, port: u16 },
    /// A file that all ranks can read and write.
    File(PathBuf),
    /// All ranks are on this host. `job` is the name of the job, if the launcher gives one.
    SameHost { job: Option<String> },
}

/// Finds rank, size and store, within `timeout`.
///
/// | URL | meaning |
/// | --- | --- |
/// | `env://` | the variables of `c10d run` and torchrun (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`, `TORCHELASTIC_USE_AGENT_STORE`), or of Open MPI, PMI, PMIx or SLURM; with the variables of these four, ranks on one host need no `MASTER_ADDR` |
/// | `tcp://host:port?rank=R&world_size=N` | rank 0 serves the store there |
/// | `file:///path?rank=R&world_size=N` | the store is that file |
///
/// # Errors
///
/// `Rendezvous` if the URL or the variables are invalid, or if rank 0 cannot serve the store; `Store` if the store
/// cannot be reached by the deadline; `Resource` if the system has no descriptor or thread left.
pub fn init(url: &str, timeout: Duration) -> Result<Joined> {
    let deadline = deadline_after(timeout);
    let member = membership(url)?;
    let (rank, size) = (member.rank, member.size);
    let (store, root) = meet(member, deadline).map_err(|mut e| {
        let report = e.report_mut();
        report.phase.get_or_insert(Phase::Rendezvous);
        report.rank.get_or_insert(rank);
        report.deadline.get_or_insert(timeout);
        e
    })?;
    Ok(Joined { rank, size, store, root })
}

/// Returns the rank and the number of ranks that `url` gives, without a connection to any process; see [`init`].
///
/// # Errors
///
/// `Rendezvous` if the URL or the variables are invalid.
pub fn rank_and_size(url: &str) -> Result<(u32, u32)> {
    membership(url).map(|member| (member.rank, member.size))
}

fn membership(url: &str) -> Result<Membership> {
    let url = url.trim();
    match url.split_once("://") {
        Some(("env", "")) => env::membership(&|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())),
        Some(("env", _)) => Err(unclear(format!("init method {url:?}: nothing may follow env://"))),
        Some(("tcp", rest)) => url::tcp(rest),
        Some(("file", rest)) => url::file(rest),
        _ => Err(unclear(format!(
            "unknown init method {url:?}; known: env://, tcp://host:port?rank=R&world_size=N and \
             file:///path?rank=R&world_size=N"
        ))),
    }
}

fn meet(member: Membership, deadline: Instant) -> Result<(Arc<dyn Store>, Arc<dyn Store>)> {
    let root: Arc<dyn Store> = match member.meeting {
        Meeting::Rank0 { host, port } => {
            let store = if member.rank == 0 {
                host::store(&host, port, deadline)?
            } else {
                TcpStore::connect(&host, port, deadline)?
            };
            // If rank 0 is a PyTorch process, it waits until all ranks have counted themselves.
            store.count_worker(deadline)?;
            Arc::new(store)
        }
        Meeting::Server { host, port } => Arc::new(TcpStore::connect(&host, port, deadline)?),
        Meeting::File(path) => Arc::new(FileStore::open(path)?),
        Meeting::SameHost { job } => Arc::new(same_host::store(job.as_deref(), member.size, deadline)?),
    };
    let store: Arc<dyn Store> = match member.prefix {
        Some(prefix) => Arc::new(PrefixStore::new(prefix, root.clone())),
        None => root.clone(),
    };
    Ok((store, root))
}

/// Checks that the rank is below the size, and returns both. `names` are the variables or parameters that give them.
fn checked(rank: u32, size: u32, names: (&str, &str)) -> Result<(u32, u32)> {
    let (rank_name, size_name) = names;
    if size == 0 {
        return Err(unclear(format!("{size_name} is 0; a group has at least one rank")));
    }
    if rank >= size {
        return Err(unclear(format!("{rank_name} is {rank}, but {size_name} is {size}: ranks are 0 to {}", size - 1)));
    }
    Ok((rank, size))
}

/// Checks that `host` can be the name or the address of one host, and returns it. `name` says where it was given.
fn one_host(name: &str, host: &str) -> Result<String> {
    if host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/' || c == ',') {
        return Err(unclear(format!("{name} is {host:?}; it must be the name or the address of one host")));
    }
    Ok(host.to_owned())
}

/// Makes the error for invalid settings. Nothing has been sent yet.
fn unclear(what: String) -> Error {
    Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous).rejected()
}
