//! What the kernel still holds of what was sent.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// For a TCP socket: bytes that the peer's kernel has not acknowledged (SIOCOUTQ).
const UNACKNOWLEDGED: Opcode = libc::TIOCOUTQ as Opcode;

/// Whether the peer's kernel has yet to acknowledge some of what was sent.
///
/// What it has acknowledged, its process can read whatever becomes of this side: a reset that follows (a socket that is
/// closed with unread bytes sends one) ends the connection, but leaves the receive queue as it is. What it has not, a reset
/// destroys.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> bool {
    // SAFETY: this opcode writes one int.
    let query = unsafe { Getter::<UNACKNOWLEDGED, c_int>::new() };
    // SAFETY: the descriptor is open, and the call changes nothing.
    unsafe { ioctl(socket, query) }.is_ok_and(|bytes| bytes > 0)
}
