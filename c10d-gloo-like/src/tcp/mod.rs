//! TCP between ranks: tuned sockets, and links of bytes over them.

mod link;
mod socket;

pub(crate) use link::TcpLink;
pub(crate) use socket::{Listener, dial};
