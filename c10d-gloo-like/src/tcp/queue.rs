//! Sent data that the kernel still holds.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// For a TCP socket, the bytes that the peer's kernel has not acknowledged (SIOCOUTQ).
const UNACKNOWLEDGED: Opcode = libc::TIOCOUTQ as Opcode;

/// Whether the peer's kernel has yet to acknowledge some of the sent data.
///
/// Acknowledged data is in the peer's receive queue, and the peer's process can read this data whatever happens to this
/// side. A socket that is closed with unread bytes sends a reset. The reset ends the connection and destroys data that
/// is not acknowledged, but keeps the peer's receive queue.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> bool {
    // SAFETY: this opcode writes one int, which is the type of the getter.
    let query = unsafe { Getter::<UNACKNOWLEDGED, c_int>::new() };
    // SAFETY: the descriptor is open, and the call changes nothing.
    unsafe { ioctl(socket, query) }.is_ok_and(|bytes| bytes > 0)
}
