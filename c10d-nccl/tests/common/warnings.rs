//! A tracing subscriber that stores the texts of warnings. A unit test uses this file, too.

use std::fmt::Debug;
use std::sync::Arc;

use c10d_core::sync::Mutex;

/// The texts of all warnings so far. Clones share the texts.
#[derive(Clone, Default)]
pub(super) struct Warnings(pub(super) Arc<Mutex<String>>);

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
