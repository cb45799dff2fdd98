//! The store of ranks on one host if no address is set: a file in a directory that only this user can use.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use c10d_core::{Error, ErrorKind, Result};

use crate::FileStore;

/// Returns the store of this job's ranks. The last rank that drops the store removes its file.
pub(super) fn store(job: Option<&str>, size: u32, deadline: Instant) -> Result<FileStore> {
    let dir = std::env::temp_dir().join(format!("c10d-{}", rustix::process::geteuid().as_raw()));
    private(&dir)?;
    let name = match job {
        Some(job) => format!("job-{job}"),
        None => parent(size)?,
    };
    let name: String = name.chars().take(200).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    FileStore::open_while_used(dir.join(name), deadline)
}

/// Makes `dir`, and rejects a directory that other users could have prepared.
fn private(dir: &Path) -> Result {
    let failed = |why: &str| {
        Error::new(
            ErrorKind::Rendezvous,
            format!(
                "the ranks cannot find each other through the directory {}: {why}; set MASTER_ADDR and MASTER_PORT \
                 instead",
                dir.display()
            ),
        )
    };
    if let Err(e) = DirBuilder::new().mode(0o700).create(dir)
        && e.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(failed("it cannot be made").caused_by(e));
    }
    let meta = dir.symlink_metadata().map_err(|e| failed("its owner and mode cannot be read").caused_by(e))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(failed("it is not a directory that only this user can use"));
    }
    Ok(())
}

/// Returns a name for the launcher, which is the parent process of all ranks on this host. The name has the launcher's
/// start time, because process ids are reused.
fn parent(size: u32) -> Result<String> {
    let pid = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if pid == 0 && size > 1 {
        let what = "the process that started this rank is in another PID namespace, so the job of this rank is not \
                    known; set MASTER_ADDR and MASTER_PORT";
        return Err(Error::new(ErrorKind::Rendezvous, what));
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The process name is in parentheses and may contain spaces; the start time is the 20th field after the name.
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or("0");
    Ok(format!("parent-{pid}-{start}"))
}
