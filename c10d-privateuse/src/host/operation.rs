//! An operation between `submit` and its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use c10d_core::backend::Job;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Outcome, Result};

use super::group::Group;
use super::lend::Lent;
use super::request::PluginRequest;
use super::token::Token;

/// The name of the plugin's function that is running for an operation: `retain`, then `submit`. `None` if none is.
pub(super) type RunningFunction = Arc<Mutex<Option<&'static str>>>;

/// An operation, its lent memory, and its group. Only the thread that takes the operation out of its slot may end it.
pub(super) struct Operation {
    pub(super) token: Token,
    pub(super) job: Job,
    pub(super) lent: Lent,
    /// The request that the plugin reads; `None` until the plugin gets the operation.
    pub(super) request: Option<Box<PluginRequest>>,
    pub(super) group: Arc<Group>,
    /// The time at which the clock ends the operation if the plugin has not ended it.
    pub(super) limit: Instant,
    pub(super) running: RunningFunction,
}

impl Operation {
    /// Ends the operation with the plugin's answer. The plugin does not use the operation's memory any more.
    pub(super) fn end(self, result: Result<Outcome>) {
        let Operation { job, lent, request, group, .. } = self;
        group.call_ended(job.request());
        // If the group has failed, the operation ends with the group's error.
        let result = result.map_err(|e| group.failure().unwrap_or(e));
        if result.is_ok() {
            lent.give_back(&job, group.rank);
        }
        job.complete_with(result);
        group.operation_ended();
        // This may call the plugin's `release`, which may hang, so it is the last step.
        drop((lent, request));
    }

    /// Ends the operation because its time is over or the plugin broke the contract. The lent memory is leaked.
    pub(super) fn give_up(self) {
        let error = self.group.failure().unwrap_or_else(|| self.why_late());
        let Operation { job, lent, request, group, running, .. } = self;
        group.call_ended(job.request());
        let runs = running.lock().is_some();
        if runs {
            group.plugin().given_up.fetch_add(1, Ordering::Relaxed);
        }
        // If `retain` is still running, the operation's own memory is leaked, because `retain` may use it.
        let lent = if runs && request.is_none() && job.owns_buffers() { Lent::Owned } else { lent };
        // The plugin may still read the request.
        std::mem::forget(request);
        group.fail(&error);
        group.plugin().written_off.fetch_add(lent.write_off(job, error), Ordering::Relaxed);
        group.operation_ended();
    }

    fn why_late(&self) -> Error {
        let (plugin, op) = (self.group.plugin(), self.job.request().op);
        let broken = |function: &str, what: &str| {
            plugin.error(
                &format!("{function}({op})"),
                format!("{what} within the operation's time; the group has failed"),
            )
        };
        match (*self.running.lock(), &self.request) {
            (Some(function), _) => broken(function, "it did not return"),
            (None, Some(_)) => broken("submit", "it did not call `done`"),
            (None, None) if self.group.is_behind(self.token) => plugin
                .error("submit", "it was still busy with an earlier operation when this operation's time was over"),
            (None, None) => {
                let what = format!(
                    "the operation's time was over before c10d could give the operation to plugin {:?}",
                    plugin.name
                );
                Error::new(ErrorKind::Timeout, what)
            }
        }
    }

    /// Ends the operation before the plugin gets it.
    pub(super) fn refuse(self, error: Error) {
        self.end(Err(error));
    }
}
