//! The descriptor of this process that peers watch.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::PidfdFlags;

/// Returns a descriptor of this process, for peers to watch. Returns `None` if the operating system does not provide
/// one (Linux before 5.3, some sandboxes), and an error if the process or the system has no free descriptor.
pub(super) fn own_process() -> Result<Option<OwnedFd>, Errno> {
    match rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(e @ (Errno::MFILE | Errno::NFILE)) => Err(e),
        Err(e) => {
            tracing::debug!("no descriptor of this process; peers notice its end by its connections only: {e}");
            Ok(None)
        }
    }
}
