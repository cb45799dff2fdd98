//! The descriptor of this process that peers watch.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::PidfdFlags;

/// Returns a descriptor of this process, for peers to watch. `None` if the operating system provides none (Linux before
/// 5.3, some sandboxes); an error if no descriptor is free.
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
