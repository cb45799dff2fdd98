//! Limits and timeouts of a server.

use std::time::Duration;

use super::limits::Limits;

/// Limits and timeouts of a [`TcpStoreServer`](super::TcpStoreServer).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The limits on memory.
    pub limits: Limits,
    /// A connection whose client has not completed the handshake (validated) within this time is closed.
    pub handshake_timeout: Duration,
    /// A connection whose request is not complete, or whose answer is not read, within this time is closed.
    pub request_timeout: Duration,
    /// The largest number of connections whose clients have not validated. If there are more, the oldest are closed.
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
