//! PyTorch's TCPStore: a server, and a client that is a [`Store`](c10d_core::Store).

mod client;
mod connection;
mod event_loop;
#[cfg(test)]
mod event_loop_tests;
mod keyspace;
#[cfg(test)]
mod keyspace_tests;
mod limits;
mod link;
#[cfg(test)]
mod link_tests;
mod options;
mod protocol;
#[cfg(test)]
mod protocol_tests;
mod quota;
mod requests;
mod resolve;
mod server;
mod signals;
mod verbs;

pub use client::TcpStore;
pub(crate) use client::WeakStore;
pub use limits::Limits;
pub use options::ServerOptions;
pub(crate) use resolve::resolve;
pub use server::TcpStoreServer;
