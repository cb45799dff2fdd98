//! Reports of ops that wait long, with the ranks for which they wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::Fingerprint;
use c10d_core::waiting;

use super::Health;
use crate::mesh::answer::Answer;
use crate::mesh::doing::Wait;
use crate::mesh::verdict;
use c10d_core::calls::CallId;

impl Health {
    pub(crate) fn warn_after(&self) -> Option<Duration> {
        self.warn_after
    }

    /// Reports that a collective has waited for `lasted`, and for the ranks `on`.
    #[cold]
    pub(crate) fn report_wait(
        self: &Arc<Self>,
        fingerprint: &Fingerprint,
        on: Vec<u32>,
        lasted: Duration,
        deadline: Instant,
    ) {
        self.report(Wait::of(fingerprint, on), Some(CallId::of(fingerprint)), 0, lasted, deadline);
    }

    /// Reports that a message has waited for `lasted`, and how many `others` have waited long.
    #[cold]
    pub(crate) fn report_message_wait(
        self: &Arc<Self>,
        wait: Wait,
        others: usize,
        lasted: Duration,
        deadline: Instant,
    ) {
        self.report(wait, None, others, lasted, deadline);
    }

    fn report(self: &Arc<Self>, wait: Wait, place: Option<CallId>, others: usize, lasted: Duration, deadline: Instant) {
        let health = self.clone();
        let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
        let lasted = lasted.as_secs_f64();
        waiting::say(&self.group, self.rank, move || {
            let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
            let call = wait.call();
            let whom = health.whom(&wait, place);
            format!("has waited {lasted:.1} s in {call}{more}, and times out in {left:.1} s: {whom}")
        });
    }

    /// Returns a text about the ranks for which the calls in flight wait. Takes up to 80 ms.
    pub(crate) fn waits_for(&self) -> String {
        let doing = self.doing();
        match doing.blocked().or(doing.waits.first()) {
            Some(wait) => self.whom(wait, doing.position.last.filter(|_| !wait.is_message())),
            None => {
                // No call of this backend waits, so a call of another library does, perhaps for a rank that does not
                // answer.
                let answers = self.answers(doing.position.last);
                let silent = |(rank, answer): (u32, &Answer)| match answer {
                    Answer::Silent { .. } | Answer::Left { .. } if rank != self.rank => {
                        Some(format!("rank {rank} {}", verdict::doing(Some(answer))))
                    }
                    _ => None,
                };
                (0..).zip(&answers).filter_map(silent).collect::<Vec<_>>().join("; ")
            }
        }
    }

    fn whom(&self, wait: &Wait, place: Option<CallId>) -> String {
        verdict::judge(self.rank, place, wait, &self.answers(place)).words
    }
}
