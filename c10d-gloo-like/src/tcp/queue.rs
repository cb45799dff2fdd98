//! Sent data that the peer's host has not acknowledged yet.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// The `ioctl` (for TCP: SIOCOUTQ) that returns the number of sent bytes that the peer's host has not acknowledged.
const UNACKNOWLEDGED: Opcode = libc::TIOCOUTQ as Opcode;

/// Whether the peer's host has yet to acknowledge some of the sent data.
///
/// Acknowledged data is in the peer's receive queue, and the peer's process can read this data whatever happens to this
/// side. If this side closes its socket before it has read all received bytes, the socket sends a reset. The reset ends
/// the connection and destroys data that is not acknowledged, but keeps the peer's receive queue.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> bool {
    // SAFETY: this opcode writes one int, which is the type of the getter.
    let query = unsafe { Getter::<UNACKNOWLEDGED, c_int>::new() };
    // SAFETY: the descriptor is open, and the call changes nothing.
    unsafe { ioctl(socket, query) }.is_ok_and(|bytes| bytes > 0)
}
