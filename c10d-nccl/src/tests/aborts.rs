//! Tests of the abort of communicators, with a library that only logs the calls.
#![allow(unsafe_code)]

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use c10d_core::sync::Mutex;

use super::mock::{Log, Mock, cuda_api};
use crate::communicator::Comms;
use crate::nccl::{Comm, NcclResult};

/// Keeps the words of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<String>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut words = self.0.lock();
        event.record(&mut |_: &tracing::field::Field, value: &dyn Debug| *words += &format!("{value:?}\n"));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Several communicators are aborted in one NCCL group, whose end tells whether that failed.
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
