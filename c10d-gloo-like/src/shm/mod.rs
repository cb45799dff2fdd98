//! Shared memory between ranks of one host. Nothing in it has a name: a segment is a sealed memfd whose descriptor travels
//! over a UNIX socket, so nothing is left behind however the ranks end.

mod bell;
mod copy;
mod cursors;
mod doorbell;
mod link;
mod ring;
mod segment;

pub(crate) use doorbell::Doorbell;
pub(crate) use link::ShmLink;
pub(crate) use segment::{Layout, RingKind, Segment};
