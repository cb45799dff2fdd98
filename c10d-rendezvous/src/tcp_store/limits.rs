//! What a server and a client accept.

/// Bounds on what one request, one key, one connection and the whole store may take. The defaults equal PyTorch's where
/// it has a bound.
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
    /// Bytes that unfinished requests and unsent answers of all connections take together.
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
