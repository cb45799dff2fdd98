//! The backends of a group. Each is made once.

use std::sync::{Arc, Weak};

use crate::sync::Mutex;

use crate::backend::{Backend, GroupInit, OtherBackends, Registry};
use crate::panics::contain;
use crate::{Error, Result};

/// The group from which a sub-group is made.
pub(crate) struct Parent {
    pub(crate) backends: Backends,
    /// The members of the sub-group, by their numbers in the parent.
    pub(crate) ranks: Vec<u32>,
    /// Whether a shrink makes the sub-group. In a shrink, the other ranks of the parent take no part, so
    /// `Backend::shrink` is called, not `split`.
    pub(crate) shrinks: bool,
}

impl Parent {
    /// Returns the members of the sub-group that the parent's backends know to have died or left. Members are numbered
    /// as in the sub-group.
    pub(crate) fn lost(&self) -> Vec<u32> {
        let lost = lost(self.backends.iter().map(|(_, backend)| backend));
        if lost.is_empty() {
            return lost;
        }
        (0..).zip(&self.ranks).filter(|(_, rank)| lost.contains(rank)).map(|(member, _)| member).collect()
    }
}

/// Returns the ranks that at least one backend knows to have died or left.
pub(super) fn lost<'a>(backends: impl Iterator<Item = &'a Arc<dyn Backend>>) -> Vec<u32> {
    let mut lost: Vec<u32> = backends.flat_map(|backend| backend.lost()).collect();
    lost.sort_unstable();
    lost.dedup();
    lost
}

/// Backends with their names.
pub(crate) type Backends = Vec<(&'static str, Arc<dyn Backend>)>;

/// The backends that a group has made so far, and what it needs to make more.
pub(super) struct BackendCache {
    registry: Arc<Registry>,
    made: Arc<Mutex<Backends>>,
    /// The parent of a sub-group. New backends may be made from its backends.
    parent: Option<Arc<Parent>>,
    /// The same parent, for `lost` only. The reference is weak, so that a cache which outlives the making of the
    /// sub-group does not keep the parent's backends alive. When the `Parent` is gone, `lost` returns no ranks.
    watched: Weak<Parent>,
}

impl BackendCache {
    pub(super) fn new(registry: Arc<Registry>, parent: Option<Arc<Parent>>) -> BackendCache {
        let watched = parent.as_ref().map(Arc::downgrade).unwrap_or_default();
        BackendCache { registry, made: Arc::default(), parent, watched }
    }

    /// Aborts the backends that were already made. `cause` says why the group cannot be made.
    pub(super) fn give_up(&self, cause: &Error) {
        let made = std::mem::take(&mut *self.made.lock());
        for (name, backend) in made {
            contain(name, || backend.abort(cause));
        }
    }
}

impl OtherBackends for BackendCache {
    fn backend(&self, init: &GroupInit, name: &str) -> Result<Arc<dyn Backend>> {
        if let Some((_, backend)) = self.made.lock().iter().find(|(n, _)| *n == name) {
            return Ok(backend.clone());
        }
        let registration = self.registry.backend(name)?;
        let name = registration.name;
        let (registry, made, watched) = (self.registry.clone(), self.made.clone(), self.watched.clone());
        let others = BackendCache { registry, made, parent: None, watched };
        let mine = init.under(name, Arc::new(others));
        let cheaper = self.parent.as_deref().and_then(|Parent { backends, ranks, shrinks }| {
            let (_, backend) = backends.iter().find(|(n, _)| *n == name)?;
            if *shrinks { backend.shrink(ranks, &mine) } else { backend.split(ranks, &mine) }
        });
        let backend = cheaper.unwrap_or_else(|| (registration.create)(&mine)).map_err(|mut e: Error| {
            let report = e.report_mut();
            report.group.get_or_insert_with(|| init.group.clone());
            report.rank.get_or_insert(init.rank);
            if report.backend.is_empty() {
                report.backend = name;
            }
            e
        })?;
        self.made.lock().push((name, backend.clone()));
        Ok(backend)
    }

    fn anew(&self) -> Arc<dyn OtherBackends> {
        Arc::new(BackendCache { watched: self.watched.clone(), ..BackendCache::new(self.registry.clone(), None) })
    }

    fn lost(&self) -> Vec<u32> {
        self.watched.upgrade().map_or_else(Vec::new, |parent| parent.lost())
    }
}
