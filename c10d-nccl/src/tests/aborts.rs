//! Tests of the abort of communicators, with a library that only logs the calls.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

#[path = "../../tests/common/warnings.rs"]
mod warnings;

use super::mock::{Log, Mock, cuda_api};
use crate::communicator::Comms;
use crate::nccl::{Comm, NcclResult};
use warnings::Warnings;

/// Several communicators are aborted in one NCCL group. The result of `ncclGroupEnd` shows whether an abort failed.
#[test]
fn a_group_of_aborts_that_fails_is_reported() {
    for (group_end, reported) in [(None, false), (Some(NcclResult::REMOTE_ERROR), true)] {
        let log = Log::default();
        let mock = Mock { log: log.clone(), next: AtomicU64::new(1), old: false, slow: false, group_end };
        let comms = Comms::new(Arc::new(mock), cuda_api(), 0);
        [1, 2].into_iter().for_each(|comm| comms.add(Comm(comm as *mut _)));
        let warnings = Warnings::default();
        tracing::subscriber::with_default(warnings.clone(), || comms.abort());
        assert_eq!(log.take(), ["group {", "abort", "abort", "}"]);
        assert_eq!(warnings.0.lock().contains("ncclGroupEnd"), reported);
    }
}
