//! Errors of the library.

use c10d_core::{Error, ErrorKind};

use super::api::NcclApi;
use super::types::{Comm, NcclResult};

/// The function by which NCCL registers memory with a network adapter. It locks the memory, so it fails if no more
/// memory may be locked.
const REGISTER: &str = "ibv_reg_mr";

/// Makes an error with the library's own description. NCCL does not report which peer is lost.
pub(crate) fn failure(nccl: &dyn NcclApi, comm: Comm, what: &str, result: NcclResult) -> Error {
    let (words, last) = (nccl.error_string(result), nccl.last_error(comm));
    let last = if last.is_empty() { String::new() } else { format!(": {last}") };
    let what = format!("NCCL {}: {what} returned {result:?}, {words}{last}", nccl.version());
    match result {
        NcclResult::REMOTE_ERROR => Error::new(ErrorKind::PeerDead { how: what }, ""),
        _ if last.contains(REGISTER) && last.contains("Cannot allocate memory") => Error::no_locked_memory(what),
        _ => Error::new(ErrorKind::Device, what),
    }
}
