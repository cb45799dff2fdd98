//! Takes jobs, puts each job into a slot, and queues it for the plugin.

use std::sync::Arc;

use c10d_core::backend::Job;

use super::group::{Group, grace};
use super::lend::Lent;
use super::operation::Operation;
use super::queues::QueueKey;
use super::token::Token;
use super::{clock, slots};

impl Group {
    /// Takes jobs, and queues them as one batch.
    pub(super) fn submit(self: &Arc<Self>, jobs: impl IntoIterator<Item = Job>) {
        let operations: Vec<(QueueKey, Token)> = jobs.into_iter().filter_map(|job| self.enter(job)).collect();
        if operations.is_empty() {
            return;
        }
        let Err(e) = self.queues.push(&operations) else { return };
        for (_, token) in operations {
            if let Some(taken) = slots::take_out(token) {
                taken.keep().refuse(e.clone());
            }
        }
    }

    /// Puts a job into a slot. If the group has failed, ends the job instead and returns `None`.
    fn enter(self: &Arc<Self>, job: Job) -> Option<(QueueKey, Token)> {
        let request = job.request();
        let limit = request.deadline() + grace(request.timeout);
        let key = QueueKey::of(request);
        self.operation_begins();
        let (lent, running) = (Lent::None, Arc::default());
        let operation = Operation { token: 0, job, lent, request: None, group: self.clone(), limit, running };
        if let Some(error) = self.failure() {
            operation.refuse(error);
            return None;
        }
        if let Some(calls) = self.calls.as_ref().filter(|_| key == QueueKey::Collectives) {
            calls.begin(operation.job.request());
        }
        let token = slots::put(operation);
        clock::at(limit);
        Some((key, token))
    }
}
