//! The user at the other end of a UNIX socket.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Returns the effective user id of the process at the other end, as seen from this process's user namespace.
///
/// rustix's function fails if the peer's PID namespace is invisible to this process, because the operating system then
/// reports no process id. So this function makes the system call itself.
pub fn peer_user(socket: &impl AsFd) -> Result<u32, Errno> {
    credentials(socket).map(|peer| peer.uid)
}

/// Returns the id, in this process's PID namespace, of the process that connected or listened at the other end. `None`
/// if its PID namespace is invisible to this process.
pub fn peer_process(socket: &impl AsFd) -> Option<i32> {
    credentials(socket).ok().map(|peer| peer.pid).filter(|id| *id > 0)
}

fn credentials(socket: &impl AsFd) -> Result<libc::ucred, Errno> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, place) = (socket.as_fd().as_raw_fd(), (&raw mut peer).cast());
    // SAFETY: `place` is valid for `len` bytes, and every bit pattern is a valid `ucred`.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &mut len) } {
        0 if len as usize == size_of::<libc::ucred>() => Ok(peer),
        0 => Err(Errno::INVAL),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Returns whether the process at the other end runs as the same user as this process. c10d shares memory only with
/// such processes.
pub fn is_same_user(socket: &impl AsFd) -> bool {
    peer_user(socket) == Ok(rustix::process::geteuid().as_raw())
}
