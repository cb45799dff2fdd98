//! The collectives that nobody waits for yet, and the thread that runs them, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use c10d_core::backend::Job;
use c10d_core::panics::caught;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Result};

/// A line of jobs with one thread behind it, which starts with the first job.
#[derive(Default)]
pub(crate) struct Queue {
    /// Jobs in line, and the one that runs. Changed under the lock, read without.
    pending: AtomicUsize,
    state: Mutex<QueueState>,
    /// A job came, or the line was closed.
    news: Condvar,
    /// Nothing is pending.
    idle: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    has_thread: bool,
    closed: bool,
    /// A job is over, and is being told so.
    completing: bool,
}

/// Who has a queue and can run its jobs.
pub(crate) trait Runner: Send + Sync + 'static {
    fn queue(&self) -> &Queue;
    /// Runs the job to its end, without completing it.
    fn run(&self, job: &Job) -> Result;
    /// A defect showed: the group cannot go on. Gives the first cause.
    fn fail(&self, error: Error) -> Error;
}

impl Queue {
    /// Whether nothing is in line or runs. Stays true as long as nobody pushes, which the lane's turn sees to.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Puts a job in line. The first one starts the thread.
    pub(crate) fn push<R: Runner>(&self, job: Job, runner: &Arc<R>) {
        // Its time runs from here, whatever is before it in line.
        job.request().deadline();
        let mut state = self.state.lock();
        if !state.has_thread {
            let runner = runner.clone();
            let thread = std::thread::Builder::new().name("c10d collectives".to_owned());
            if let Err(e) = thread.spawn(move || serve(&*runner)) {
                drop(state);
                let what = "cannot start the thread that asynchronous collectives need";
                return job.complete(Err(Error::new(ErrorKind::Resource, what).caused_by(e)));
            }
            state.has_thread = true;
        }
        state.jobs.push_back(job);
        self.pending.fetch_add(1, Ordering::AcqRel);
        drop(state);
        self.news.notify_one();
    }

    /// Nothing more will come: the thread ends when the line is empty.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.news.notify_one();
    }

    /// Waits until nothing is pending, and all who wait for a job know that it is over. `false`: it was not by the
    /// deadline.
    pub(crate) fn drain(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !self.is_idle() || state.completing {
            if self.idle.wait_until(&mut state, deadline).timed_out() {
                return self.is_idle() && !state.completing;
            }
        }
        true
    }

    /// When the first of the jobs in line must be over.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.state.lock().jobs.iter().map(|job| job.request().deadline()).min()
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            self.news.wait(&mut state);
        }
    }

    fn one_less(&self) {
        self.state.lock().completing = true;
        self.pending.fetch_sub(1, Ordering::AcqRel);
    }

    fn completed(&self) {
        self.state.lock().completing = false;
        self.idle.notify_all();
    }
}

fn serve<R: Runner>(runner: &R) {
    while let Some(job) = runner.queue().next() {
        let result = caught(|| runner.run(&job)).unwrap_or_else(|words| {
            let what = format!("the thread of asynchronous collectives panicked: {words}");
            Err(runner.fail(Error::new(ErrorKind::Internal, what)))
        });
        // Before the completion, so that whoever it wakes finds the line as it is.
        runner.queue().one_less();
        job.complete(result);
        runner.queue().completed();
    }
}
