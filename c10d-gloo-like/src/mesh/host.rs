//! The descriptor of this process that peers watch.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::PidfdFlags;

/// A descriptor of this process, for others to watch; `None` on kernels before 5.3, which have no such descriptors.
pub(super) fn own_process() -> Result<Option<OwnedFd>, Errno> {
    match rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(e @ (Errno::MFILE | Errno::NFILE)) => Err(e),
        Err(e) => {
            tracing::debug!("peers watch this process by its connections alone: {e}");
            Ok(None)
        }
    }
}
