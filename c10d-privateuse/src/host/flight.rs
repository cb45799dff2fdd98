//! An operation between `submit` and its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use c10d_core::{Error, Job, Outcome, Result};

use super::call::Call;
use super::group::Group;
use super::lend::Lent;

/// An operation, what it was lent, and whose it is. Whoever takes it out of its slot ends it.
pub(super) struct Flight {
    pub(super) job: Job,
    pub(super) lent: Lent,
    /// What the plugin reads; from when it is given the operation.
    pub(super) call: Option<Box<Call>>,
    pub(super) group: Arc<Group>,
    /// When it is ended without the plugin.
    pub(super) limit: Instant,
    /// Whether the plugin's `submit` has come back.
    pub(super) returned: Arc<AtomicBool>,
}

impl Flight {
    /// Ends it with what the plugin said; the plugin has let go of its memory.
    pub(super) fn end(self, result: Result<Outcome>) {
        let Flight { job, lent, call, group, .. } = self;
        // After an abort, its cause is the cause of whatever ends badly.
        let result = result.map_err(|e| group.failure().unwrap_or(e));
        if result.is_ok() {
            lent.give_back(&job);
        }
        drop((lent, call));
        job.complete_with(result);
        group.landed();
    }

    /// Ends it because its time is over. What the plugin was lent is lost.
    pub(super) fn give_up(self) {
        let Flight { job, lent, call, group, returned, .. } = self;
        let plugin = group.plugin();
        let Some(call) = call else {
            let error = group.failure().unwrap_or_else(|| {
                plugin.error("submit", "it was still busy with an earlier operation when the time of this one was over")
            });
            group.fail(&error);
            job.complete(Err(error));
            group.landed();
            return;
        };
        let op = job.request().op;
        let error = group.failure().unwrap_or_else(|| {
            let what = if returned.load(Ordering::Acquire) {
                "it never said that the operation was done"
            } else {
                "it did not return"
            };
            plugin.error(&format!("submit({op})"), format!("{what} within the operation's time; the group is over"))
        });
        if !returned.load(Ordering::Acquire) {
            plugin.given_up.fetch_add(1, Ordering::Relaxed);
        }
        // The plugin may still read it.
        std::mem::forget(call);
        group.fail(&error);
        plugin.written_off.fetch_add(lent.write_off(job, error), Ordering::Relaxed);
        group.landed();
    }

    /// Ends it before the plugin had it.
    pub(super) fn refuse(self, error: Error) {
        self.end(Err(error));
    }
}
