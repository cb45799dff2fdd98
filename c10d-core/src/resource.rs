//! Texts for exhausted system resources: which resource ran out, and the limit that bounds it.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Returns a text that names the resource that ran out. `None` if `cause` has another reason.
pub(crate) fn ran_out(cause: &(dyn Error + 'static)) -> Option<String> {
    let code = match cause.downcast_ref::<io::Error>() {
        Some(e) => Errno::from_io_error(e)?,
        None => *cause.downcast_ref::<Errno>()?,
    };
    Some(match code {
        Errno::MFILE => {
            format!(
                "this process has no file descriptor left (limit {}; raise it with ulimit -n)",
                soft(Resource::Nofile)
            )
        }
        Errno::NFILE => format!("the system cannot open more files (limit {}, fs.file-max)", sysctl("fs/file-max")),
        Errno::TOOMANYREFS => format!(
            "too many descriptors of this user are in transit to other processes (limit {}; raise it with ulimit -n)",
            soft(Resource::Nofile)
        ),
        Errno::NOMEM => format!("no memory left ({})", memory()),
        Errno::NOBUFS => {
            "the system has no memory left for sockets (limits: net.core and net.ipv4 of sysctl)".to_owned()
        }
        Errno::NOSPC => {
            let watches = sysctl("fs/epoll/max_user_watches");
            format!("no space left on the file system, or no epoll watch (limit {watches}, fs.epoll.max_user_watches)")
        }
        Errno::DQUOT => "the disk quota of this user is used up".to_owned(),
        Errno::FBIG => {
            format!("the file is as large as it may be (limit {}; raise it with ulimit -f)", soft(Resource::Fsize))
        }
        _ => return None,
    })
}

/// Returns a text for a thread or process that could not be started. The text names the limit that was reached or, if
/// unknown, all limits on threads and processes.
pub(crate) fn no_threads() -> String {
    if let Some((limit, place)) =
        pids().filter(|(limit, used, _)| used >= limit).map(|(limit, _, place)| (limit, place))
    {
        return format!("no thread or process left (limit {limit}, pids.max of {})", place.display());
    }
    let mut limits = Vec::new();
    if let Some(limit) = getrlimit(Resource::Nproc).current {
        limits.push(format!("{limit} of the user; raise it with ulimit -u"));
    }
    if let Some(limit) = getrlimit(Resource::As).current {
        limits.push(format!("{limit} bytes of addresses, stacks included; raise it with ulimit -v"));
    }
    if let Some((limit, _, place)) = pids() {
        limits.push(format!("{limit}, pids.max of {}", place.display()));
    }
    limits.push(format!("{} of the system, kernel.threads-max", sysctl("kernel/threads-max")));
    format!("no thread or process left (limits: {})", limits.join("; "))
}

/// Returns a text with the limits on memory of this process.
pub(crate) fn memory() -> String {
    let mut limits = Vec::new();
    for (resource, word, flag) in [(Resource::As, "addresses", 'v'), (Resource::Data, "data", 'd')] {
        if let Some(limit) = getrlimit(resource).current {
            limits.push(format!("limit {limit} bytes of {word}; raise it with ulimit -{flag}"));
        }
    }
    if let Some((limit, place)) = smallest(&["memory.max", "memory.limit_in_bytes"]) {
        limits.push(format!("limit {limit} bytes, memory cgroup {}", place.display()));
    }
    if limits.is_empty() {
        let total = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = total.lines().find_map(|l| l.strip_prefix("MemTotal:")).map_or("unknown", str::trim);
        limits.push(format!("limit: the machine's memory, {total}"));
    }
    limits.join("; ")
}

/// Returns a text with the limit on locked memory of this process.
pub(crate) fn locked_memory() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(limit) => format!("limit {limit} bytes; raise it with ulimit -l"),
        None => "this process has no limit of its own".to_owned(),
    }
}

fn soft(resource: Resource) -> String {
    getrlimit(resource).current.map_or_else(|| "none".to_owned(), |n| n.to_string())
}

fn sysctl(name: &str) -> String {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
    if text.trim().is_empty() { "unknown".to_owned() } else { text.trim().to_owned() }
}

/// Returns the smallest limit on tasks (threads of any process) among this process's cgroups. Also returns the number
/// of tasks in the cgroup with this limit, and the path of this cgroup.
fn pids() -> Option<(u64, u64, PathBuf)> {
    let (limit, place) = smallest(&["pids.max"])?;
    Some((limit, number(&place.join("pids.current"))?, place))
}

/// Reads the files with these names in this process's cgroups and their ancestors. Returns the smallest number, and the
/// path of the cgroup that has it.
fn smallest(names: &[&str]) -> Option<(u64, PathBuf)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mount = Path::new("/sys/fs/cgroup");
    let mut places = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let leaf = mount.join(controllers.split(',').next().unwrap_or_default()).join(path.trim_start_matches('/'));
        places.extend(leaf.ancestors().take_while(|dir| dir.starts_with(mount)).map(Path::to_owned));
    }
    let limits = places
        .into_iter()
        .flat_map(|dir| names.iter().filter_map(move |name| Some((number(&dir.join(name))?, dir.clone()))));
    // Cgroups of version 1 write a huge number for "no limit".
    limits.filter(|(limit, _)| *limit < 1 << 60).min_by_key(|(limit, _)| *limit)
}

/// Reads a number from a file. `None` if the file cannot be read, or contains "max", which means no limit.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_resource_is_named_with_its_limit() {
        let of = |code: Errno| ran_out(&io::Error::from(code));
        let files = getrlimit(Resource::Nofile).current.unwrap().to_string();
        assert!(of(Errno::MFILE).unwrap().contains(&format!("limit {files};")));
        assert_eq!(of(Errno::MFILE), ran_out(&Errno::MFILE));
        for (code, word) in [(Errno::NFILE, "fs.file-max"), (Errno::NOMEM, "limit"), (Errno::NOSPC, "space")] {
            assert!(of(code).unwrap().contains(word), "{code:?}");
        }
        for other in [Errno::CONNREFUSED, Errno::AGAIN, Errno::PIPE, Errno::ADDRINUSE] {
            assert_eq!(of(other), None);
        }
        assert_eq!(ran_out(&io::Error::other("text")), None);
        assert!(no_threads().contains("threads-max") || no_threads().contains("pids.max"));
    }
}
