//! The limits of a server and a client.

/// Limits on one request, one key, one connection and the whole store. The defaults equal PyTorch's where it has a
/// limit.
///
/// A connection may take half of what is left of `total` and `keys` to its address (for IPv6, a network of 64 bits),
/// and an address half of what is left to all: a quarter and a half of an empty store. An entry counts for the client
/// that wrote it last.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value in a request.
    pub value: usize,
    /// Keys in one request.
    pub list: usize,
    /// Bytes of one request.
    pub request: usize,
    /// Bytes of unsent answers of one connection.
    pub reply: usize,
    /// Bytes of the unfinished requests and unsent answers of all connections together. Beyond it, the connection that
    /// has held a large part of them for the longest time is closed.
    pub buffers: usize,
    /// Bytes stored under one key (by appending, or in a queue).
    pub per_key: usize,
    /// Bytes stored in all.
    pub total: usize,
    /// Keys and queues in all.
    pub keys: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            key: 8 << 10,
            value: 8 << 20,
            list: 128 << 10,
            request: 64 << 20,
            reply: 128 << 20,
            buffers: 1 << 30,
            per_key: 64 << 20,
            total: 1 << 30,
            keys: 1 << 20,
        }
    }
}
