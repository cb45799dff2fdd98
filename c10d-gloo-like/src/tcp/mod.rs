//! TCP between ranks: tuned sockets, and links of bytes over them.

mod link;
mod queue;
mod socket;

pub(crate) use link::TcpLink;
pub(crate) use queue::unacknowledged;
pub(crate) use socket::{Listener, SHORTEST_SILENCE, dial, end_when_silent};
