//! How a server treats its clients.

use std::time::Duration;

use super::limits::Limits;

/// How a [`TcpStoreServer`](super::TcpStoreServer) treats its clients.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Bounds on memory.
    pub limits: Limits,
    /// A connection that has not validated by then is dropped.
    pub handshake_timeout: Duration,
    /// A request that is not complete, or an answer not taken, by then costs the connection.
    pub request_timeout: Duration,
    /// How many connections may be before validation; the oldest make room.
    pub max_unvalidated: usize,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            limits: Limits::default(),
            handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            max_unvalidated: 1024,
        }
    }
}
