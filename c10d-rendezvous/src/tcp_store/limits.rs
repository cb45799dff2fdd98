//! The limits of a server and a client.

/// Limits on one request, one key, one connection and the whole store. The defaults equal PyTorch's limits where
/// PyTorch has a limit.
///
/// The share of an address (for IPv6, of a network with a 64-bit prefix) is (`total` - A) / 2 bytes, where A is what
/// the other addresses hold. The share of a connection is (S - C) / 2, where S is the share of its address, and C is
/// what the other connections of that address hold. The number of keys has shares in the same way. So in an empty
/// store, an address may fill one half, and one connection one quarter. An entry is charged to the client that wrote it
/// last.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The largest number of bytes of a key.
    pub key: usize,
    /// The largest number of bytes of a value in a request.
    pub value: usize,
    /// The largest number of keys in one request.
    pub list: usize,
    /// The largest number of bytes of one request.
    pub request: usize,
    /// The largest number of bytes of unsent answers of one connection.
    pub reply: usize,
    /// The largest number of bytes of the unfinished requests and unsent answers of all connections together. Beyond
    /// it, the connection that has held a large part of them for the longest time is closed.
    pub buffers: usize,
    /// The largest number of bytes that are stored under one key (by appending, or in a queue).
    pub per_key: usize,
    /// The largest number of bytes that are stored in all.
    pub total: usize,
    /// The largest number of keys and queues in all.
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
