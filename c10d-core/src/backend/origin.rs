//! The group, rank and backend that an error reports.

use std::sync::Arc;

use crate::Error;

/// The group, rank and backend of a lane, which every error of the lane names.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) group: Arc<str>,
    pub(crate) rank: u32,
    pub(crate) backend: &'static str,
    /// The global numbers of this group's ranks: their numbers in the group that the builder made. `None` if the
    /// builder made this group.
    pub(crate) global: Option<Arc<[u32]>>,
}

impl Origin {
    /// Sets the group, rank, backend and global ranks of an error, except for fields that are set already.
    pub(crate) fn describe(&self, error: &mut Error) {
        let report = error.report_mut();
        report.group.get_or_insert_with(|| self.group.clone());
        report.rank.get_or_insert(self.rank);
        if report.backend.is_empty() {
            report.backend = self.backend;
        }
        if let (Some(global), true) = (&self.global, report.guilty_global.is_empty()) {
            report.guilty_global = report.guilty.iter().filter_map(|r| global.get(*r as usize).copied()).collect();
        }
    }

    pub(crate) fn described(&self, mut error: Error) -> Error {
        self.describe(&mut error);
        error
    }
}
