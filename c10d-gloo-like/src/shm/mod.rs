//! Shared memory between ranks of one host. The memory has no name in a file system: a segment is a sealed memfd whose
//! descriptor is sent over a UNIX socket. So the operating system frees the memory when the last rank that maps it
//! ends, even after a crash.

mod bell;
mod copy;
mod core_pair;
mod cursors;
mod doorbell;
mod lent;
mod link;
mod mailbox;
mod multicast;
mod peer_memory;
mod ring;
mod segment;
mod slots;

pub(crate) use copy::{PAST_CACHE, copy};
pub(crate) use core_pair::CorePair;
pub(crate) use doorbell::Doorbell;
pub(crate) use lent::Lend;
pub(crate) use link::ShmLink;
pub(crate) use multicast::{LEAST as MULTICAST_LEAST, Multicast, Payload, pays as multicast_pays};
pub(crate) use ring::BRIEF;
pub(crate) use segment::{Layout, RingKind, Segment};
