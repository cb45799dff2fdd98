//! A running all-reduce of a bucket of gradients, with its times.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use c10d::{OpError, ProcessGroup, ReduceOp, Work, op};

type Outcome = Result<Vec<f64>, OpError<Vec<f64>>>;

/// A started all-reduce.
pub(crate) struct Flight {
    started: Instant,
    landed: Arc<Landed>,
    progress: Progress,
}

enum Progress {
    Flying(Work<Vec<f64>>),
    Over(Outcome),
}

/// Records when the op ended. This type is the op's waker, so the thread that completes the op sets the time.
#[derive(Default)]
struct Landed(OnceLock<Instant>);

impl Wake for Landed {
    fn wake(self: Arc<Self>) {
        let _ = self.0.set(Instant::now());
    }
}

impl Flight {
    pub(crate) fn start(pg: &ProcessGroup, gradient: Vec<f64>) -> Flight {
        let (started, landed) = (Instant::now(), Arc::new(Landed::default()));
        let mut work = pg.start(op::all_reduce(gradient, ReduceOp::Sum));
        let progress = match Pin::new(&mut work).poll(&mut Context::from_waker(&landed.clone().into())) {
            Poll::Pending => Progress::Flying(work),
            Poll::Ready(outcome) => {
                landed.clone().wake();
                Progress::Over(outcome)
            }
        };
        Flight { started, landed, progress }
    }
}

/// The total time of all ops.
#[derive(Default)]
pub(crate) struct Air {
    pub(crate) total: Duration,
    /// The part of this time during which the rank was computing.
    pub(crate) hidden: Duration,
}

impl Air {
    /// Waits for the ops of one step, which end in the order of their start. `computed` is the end of the backward
    /// pass.
    pub(crate) fn land(&mut self, flights: Vec<Flight>, computed: Instant) -> c10d::Result<Vec<Vec<f64>>> {
        let mut gradients = Vec::with_capacity(flights.len());
        let mut before = None;
        for flight in flights {
            gradients.push(match flight.progress {
                Progress::Flying(work) => work.wait()?,
                Progress::Over(outcome) => outcome?,
            });
            let end = flight.landed.0.get().copied().unwrap_or_else(Instant::now);
            // Time during which two ops run counts once.
            let start = before.map_or(flight.started, |before| flight.started.max(before));
            self.total += end.saturating_duration_since(start);
            self.hidden += end.min(computed).saturating_duration_since(start);
            before = Some(end);
        }
        Ok(gradients)
    }
}
