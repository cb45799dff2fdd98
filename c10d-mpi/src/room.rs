//! The free space (room) in `/dev/shm` for the MPI library's shared memory. The libraries do not check whether the
//! space is enough: if a page does not fit, the operating system kills the rank (SIGBUS), or the start of MPI does not
//! return.

use crate::mpi::{Kind, Library};

/// The bytes that each of several ranks of a host needs. Four ranks of MPICH 5.0.2 use 22 MB, but sometimes hang if
/// only 24 MiB are free. Four ranks of Intel MPI 2021.18 use 15 MB.
pub(crate) const SHARED: u64 = 8 << 20;
/// The bytes that a rank needs if it shares no memory with other ranks: MPICH makes a segment of 1.1 MB even then.
pub(crate) const ALONE: u64 = 2 << 20;

/// The free bytes of `/dev/shm`, and the bytes that this rank needs if its host has other ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Room {
    pub(crate) left: u64,
    pub(crate) needed: u64,
}

/// Returns the room of this process. Returns `None` if the free space is not known or not limited, or if the library
/// needs no space.
pub(crate) fn room(library: &Library) -> Option<Room> {
    let is = |name: &str, values: &[&str]| {
        std::env::var(name).is_ok_and(|value| values.contains(&value.to_ascii_lowercase().as_str()))
    };
    let needed = match library.kind {
        Kind::Mpich if is("MPIR_CVAR_NOLOCAL", &["1", "yes", "true", "on"]) => ALONE,
        Kind::Intel if is("I_MPI_FABRICS", &["ofi"]) => return None,
        Kind::Mpich | Kind::Intel => SHARED,
        Kind::OpenMpi | Kind::Other => return None,
    };
    let stat = rustix::fs::statvfs("/dev/shm").ok()?;
    // A tmpfs that is mounted with size=0 has no limit, and reports no blocks.
    (stat.f_blocks > 0).then(|| Room { left: stat.f_bavail.saturating_mul(stat.f_frsize), needed })
}
