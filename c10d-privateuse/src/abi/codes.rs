//! The codes of the ABI, and their counterparts in core.

use c10d_core::{DType, DTypeSet, Error, ErrorKind};

/// Success.
pub const OK: i32 = 0;
/// The call is not valid; nothing was sent.
pub const INVALID: i32 = 1;
/// The callee does not offer the call; nothing was sent.
pub const UNSUPPORTED: i32 = 2;
/// The guilty rank issued a different call.
pub const MISMATCH: i32 = 3;
/// The guilty rank is dead, or has left the group.
pub const PEER_DEAD: i32 = 4;
/// The deadline passed.
pub const TIMEOUT: i32 = 5;
/// The group was aborted.
pub const ABORTED: i32 = 6;
/// Memory, descriptors or threads ran out.
pub const RESOURCE: i32 = 7;
/// The device failed.
pub const DEVICE: i32 = 8;
/// A peer broke the protocol.
pub const PROTOCOL: i32 = 9;
/// The store refused the request, or could not be reached.
pub const STORE: i32 = 10;
/// A bug.
pub const INTERNAL: i32 = 11;

/// Host memory.
pub const DEVICE_CPU: i32 = 1;
/// CUDA memory.
pub const DEVICE_CUDA: i32 = 2;
/// The plugin's own device.
pub const DEVICE_PRIVATE: i32 = 12;

/// The element type of barriers, which have none.
pub const NO_DTYPE: u32 = u32::MAX;
/// The reduce operation of ops that do not reduce.
pub const NO_REDUCE: u32 = u32::MAX;
/// The request flag by which a monitored barrier names every missing rank.
pub const WAIT_ALL_RANKS: u32 = 1;
/// The request flag that the caller waits for the op.
pub const CALLER_WAITS: u32 = 2;

/// Returns the kind of error that a status stands for. `None`: the status is success, or does not exist.
pub fn kind(status: i32) -> Option<ErrorKind> {
    Some(match status {
        INVALID => ErrorKind::InvalidArgument,
        UNSUPPORTED => ErrorKind::Unsupported,
        MISMATCH => ErrorKind::Mismatch { field: "call", mine: "?".into(), theirs: "?".into() },
        PEER_DEAD => ErrorKind::PeerDead { how: "the plugin reported it".into() },
        TIMEOUT => ErrorKind::Timeout,
        ABORTED => ErrorKind::Aborted,
        RESOURCE => ErrorKind::Resource,
        DEVICE => ErrorKind::Device,
        PROTOCOL => ErrorKind::Protocol,
        STORE => ErrorKind::Store,
        INTERNAL => ErrorKind::Internal,
        _ => return None,
    })
}

/// Returns the status for an error.
pub fn status(error: &Error) -> i32 {
    match error.kind() {
        ErrorKind::InvalidArgument => INVALID,
        ErrorKind::Unsupported => UNSUPPORTED,
        ErrorKind::Mismatch { .. } => MISMATCH,
        ErrorKind::PeerDead { .. } => PEER_DEAD,
        ErrorKind::Timeout => TIMEOUT,
        ErrorKind::Aborted | ErrorKind::Shutdown => ABORTED,
        ErrorKind::Resource => RESOURCE,
        ErrorKind::Device => DEVICE,
        ErrorKind::Protocol => PROTOCOL,
        ErrorKind::Store | ErrorKind::Rendezvous => STORE,
        _ => INTERNAL,
    }
}

/// Returns the set of element types with these bits. Unknown bits are ignored.
pub fn dtypes(bits: u32) -> DTypeSet {
    let mut list = [DType::U8; 32];
    let mut n = 0;
    for d in DType::ALL.iter().filter(|d| bits & (1 << **d as u32) != 0) {
        list[n] = *d;
        n += 1;
    }
    DTypeSet::of(&list[..n])
}

/// Returns the bits of a set.
pub fn bits(set: DTypeSet) -> u32 {
    set.iter().fold(0, |bits, d| bits | 1 << d as u32)
}
