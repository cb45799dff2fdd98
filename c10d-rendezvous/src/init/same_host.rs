//! Where the ranks of one host meet when nobody said where: a file in a directory of this user alone.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use c10d_core::{Error, ErrorKind, Result};

use crate::FileStore;

/// The store of this job's ranks; the last of them removes it.
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

/// Makes `dir`, and refuses one that others could have prepared.
fn private(dir: &Path) -> Result {
    let failed = |why: &str| {
        Error::new(
            ErrorKind::Rendezvous,
            format!("cannot meet in {}: {why}; set MASTER_ADDR and MASTER_PORT instead", dir.display()),
        )
    };
    if let Err(e) = DirBuilder::new().mode(0o700).create(dir)
        && e.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(failed("it cannot be made").caused_by(e));
    }
    let meta = dir.symlink_metadata().map_err(|e| failed("it cannot be looked at").caused_by(e))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(failed("it is not a directory of this user alone"));
    }
    Ok(())
}

/// All ranks of one host have one parent, the starter; its start time tells it from an earlier process of that number.
fn parent(size: u32) -> Result<String> {
    let pid = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if pid == 0 && size > 1 {
        let what = "the process that started this rank is in another PID namespace, so nothing tells which job this is; \
                    set MASTER_ADDR and MASTER_PORT";
        return Err(Error::new(ErrorKind::Rendezvous, what));
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain spaces; the start is the 20th field behind it.
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or("0");
    Ok(format!("parent-{pid}-{start}"))
}
