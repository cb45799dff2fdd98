//! A running all-reduce of a bucket of gradients, with its times.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use c10d::{OpError, ProcessGroup, ReduceOp, Work, op};

type Outcome = Result<Vec<f64>, OpError<Vec<f64>>>;

/// A started all-reduce.
pub(crate) struct Reduction {
    started: Instant,
    ended: Arc<EndTime>,
    progress: Progress,
}

enum Progress {
    Running(Work<Vec<f64>>),
    Ended(Outcome),
}

/// The op's waker: it records when the op ended.
#[derive(Default)]
struct EndTime(OnceLock<Instant>);

impl Wake for EndTime {
    fn wake(self: Arc<Self>) {
        let _ = self.0.set(Instant::now());
    }
}

impl Reduction {
    pub(crate) fn start(pg: &ProcessGroup, gradient: Vec<f64>) -> Reduction {
        let (started, ended) = (Instant::now(), Arc::new(EndTime::default()));
        let mut work = pg.start(op::all_reduce(gradient, ReduceOp::Sum));
        let progress = match Pin::new(&mut work).poll(&mut Context::from_waker(&ended.clone().into())) {
            Poll::Pending => Progress::Running(work),
            Poll::Ready(outcome) => {
                ended.clone().wake();
                Progress::Ended(outcome)
            }
        };
        Reduction { started, ended, progress }
    }
}

/// The time during which at least one op of this rank ran.
#[derive(Default)]
pub(crate) struct OpTimes {
    pub(crate) total: Duration,
    /// The part of this time during which the rank was computing.
    pub(crate) hidden: Duration,
}

impl OpTimes {
    /// Waits for the ops of one step, which end in the order of their start. `computed` is the end of the backward
    /// pass.
    pub(crate) fn wait(&mut self, reductions: Vec<Reduction>, computed: Instant) -> c10d::Result<Vec<Vec<f64>>> {
        let mut gradients = Vec::with_capacity(reductions.len());
        let mut before = None;
        for reduction in reductions {
            gradients.push(match reduction.progress {
                Progress::Running(work) => work.wait()?,
                Progress::Ended(outcome) => outcome?,
            });
            let end = reduction.ended.0.get().copied().unwrap_or_else(Instant::now);
            // The time during which two ops run is counted once.
            let start = before.map_or(reduction.started, |before| reduction.started.max(before));
            self.total += end.saturating_duration_since(start);
            self.hidden += end.min(computed).saturating_duration_since(start);
            before = Some(end);
        }
        Ok(gradients)
    }
}
