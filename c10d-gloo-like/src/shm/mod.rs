//! Shared memory between ranks of one host. Nothing in it has a name: a segment is a sealed memfd whose descriptor travels
//! over a UNIX socket, so nothing is left behind however the ranks end.

mod copy;
mod futex;
mod link;
mod memory;
mod ring;
mod segment;

pub(crate) use futex::Doorbell;
pub(crate) use link::ShmLink;
pub(crate) use segment::{Layout, RingKind, Segment};
